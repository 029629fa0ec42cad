from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.models.auto import CONFIG_MAPPING

from agentgrpo import causal_lm
from agentgrpo.engines import passes
from agentgrpo.engines.attention import Feed
from agentgrpo.engines.lean import LeanDecoder
from agentgrpo.engines.slots import SlotCache
from agentgrpo.engines.versions import PolicyVersions
from agentgrpo.types import Policy
from tests.engines.models import merged, random_adapter

SMALL: dict[str, Any] = {
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "pad_token_id": 0,
}
LEAN = ("qwen3", "qwen2", "llama", "mistral")
OWN = ("gemma", "olmo2", "granite", "cohere", "starcoder2")  # other parts, or other numbers


def make(kind: str) -> PreTrainedModel:
    config: PretrainedConfig = CONFIG_MAPPING[kind](**SMALL)
    if kind == "granite":
        config.residual_multiplier = 0.7  # its parts are those of the family
    if kind == "mistral":
        config.sliding_window = None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():  # norms of all ones would hide a norm left out
            parameter.data += 0.1 * torch.randn(parameter.shape)
    model.eval().requires_grad_(False)
    return model


def hidden(model: PreTrainedModel, ids: np.ndarray[Any, np.dtype[np.int64]]) -> torch.Tensor:
    cache = SlotCache(model, slots=2, max_length=64)
    slots = np.ones_like(ids)
    first, rest = (
        passes.run_pass(model, ids[part], Feed(cache, slots[part], np.arange(len(ids))[part]))
        for part in (slice(0, 40), slice(40, 50))
    )
    return torch.cat([first[:40], rest[:10]])


@torch.inference_mode()
@pytest.mark.parametrize("kind", [*LEAN, *OWN])
def test_a_pass_gives_what_the_model_gives(kind: str) -> None:
    model = make(kind)
    shared = causal_lm.share_weights(model)
    passes.use_slots(shared)
    assert isinstance(shared.base_model.forward, LeanDecoder) is (kind in LEAN)
    ids = np.arange(50) * 7 % 100
    expected = model.base_model(torch.from_numpy(ids)[None]).last_hidden_state[0]
    torch.testing.assert_close(hidden(shared, ids), expected, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("is_merged", [True, False])
def test_the_shorter_way_answers_as_the_version_in_use(is_merged: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not is_merged:
        monkeypatch.setattr("agentgrpo.engines.versions._MERGE_LIMIT_BYTES", 0)
    model = make("qwen3")
    shared, ids = causal_lm.share_weights(model), np.arange(50)
    passes.use_slots(shared)
    versions = PolicyVersions(shared)
    adapters = {Policy(version=v): random_adapter(model, v, scale=0.1) if v else None for v in range(3)}
    for policy, adapter in adapters.items():
        versions.add(policy, adapter)
    for policy, adapter in reversed(adapters.items()):
        with versions.use(policy) as used:
            found = hidden(used, ids)
        expected = merged(model, adapter).base_model(torch.from_numpy(ids)[None]).last_hidden_state[0]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_half_precision_goes_through_the_models_own_code() -> None:
    model = causal_lm.share_weights(make("qwen3").to(torch.bfloat16))  # type: ignore[arg-type]
    passes.use_slots(model)
    assert not isinstance(model.base_model.forward, LeanDecoder)


def test_a_model_with_other_heads_than_its_config_says_is_no_model_for_a_slot_cache() -> None:
    model = causal_lm.share_weights(make("gpt_neox"))  # has no key-value heads of its own, but such a number
    passes.use_slots(model)
    with torch.inference_mode(), pytest.raises(ValueError, match=r"\(4, 8\)"):
        hidden(model, np.arange(50))
