"""What the doctor says of vLLM's memory, on cards this machine does not have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentgrpo.config.run import load_config
from agentgrpo.doctor import vllm_memory
from agentgrpo.doctor.memory import exactly
from agentgrpo.doctor.subject import Subject
from agentgrpo.engines.card import plan_card
from tests.doctor.sizes import facts

GB = 1e9
LEARNER = [exactly("base weights", 1.2 * GB), exactly("adapter", 0.2 * GB), exactly("learner", 9 * GB)]


def subject(tmp_path: Path, **more: Any) -> Subject:
    config = load_config(
        {
            "engine": {"kind": "vllm", "context_length": 4096, "max_sequences": 32},
            "rollout": {"concurrency": 32, "tasks_per_step": 4, "group_size": 8},
            "learner": {"tokens_per_microbatch": 6144},
            **more,
        }
    )
    return Subject(config=config, folder=tmp_path, model=facts(2))


@pytest.mark.parametrize(
    ("total", "said"),
    [
        (80 * GB, "both stay on the card"),
        (24 * GB, "vLLM sleeps while the learner works"),
        (8 * GB, "do not fit a card of 7 GiB even in turns"),
    ],
)
def test_it_says_who_holds_the_card(tmp_path: Path, total: float, said: str) -> None:
    examined = subject(tmp_path)
    finding, *_ = vllm_memory.check_card(examined, vllm_memory.needs_of(examined, total), total)
    assert said in finding.text


def test_it_counts_with_the_share_vllm_is_given(tmp_path: Path) -> None:
    vllm = {"kind": "vllm", "context_length": 4096, "max_sequences": 32, "vllm": {"gpu_memory_utilization": 0.2}}
    examined = subject(tmp_path, engine=vllm)
    needs = vllm_memory.needs_of(examined, 80 * GB)
    assert needs.wanted == needs.least == pytest.approx(16 * GB - needs.engine)
    finding, *_ = vllm_memory.check_card(examined, needs, 80 * GB)
    assert finding.values["cache"] == needs.wanted


def test_episodes_that_the_cache_cannot_hold_are_counted(tmp_path: Path) -> None:
    one = 4096 * 114_688
    (enough,) = vllm_memory.check_room(subject(tmp_path), 32 * one)
    (short,) = vllm_memory.check_room(subject(tmp_path), 10 * one)
    assert (enough.level, short.level) == ("ok", "warn")
    assert "holds 10 episodes of 4096 tokens, 32 are to run at once" in short.text
    assert "rollout.concurrency = 10" in short.fix


def test_the_cache_is_of_the_numbers_vllm_computes_in(tmp_path: Path) -> None:
    examined = subject(tmp_path, engine={"kind": "vllm", "context_length": 4096, "vllm": {"dtype": "float32"}})
    (finding,) = vllm_memory.check_room(examined, 10 * 4096 * 114_688)
    assert finding.values["held"] == 5


def test_those_that_take_turns_are_not_added_up(tmp_path: Path) -> None:
    needs = vllm_memory.needs_of(subject(tmp_path), 80 * GB)
    both, turns = plan_card(needs, 80 * GB), plan_card(needs, 24 * GB)
    assert both is not None and turns is not None and turns.mode == "sleep"
    assert [a.name for a in vllm_memory.on_card(needs, both, LEARNER)][2:] == [
        "learner",
        "vLLM: weights, adapters, graphs",
        "vLLM: KV cache",
    ]
    assert "learner" not in [a.name for a in vllm_memory.on_card(needs, turns, LEARNER)]
    assert sum(a.high for a in vllm_memory.on_card(needs, turns, LEARNER)) <= 24 * GB


def test_on_the_cpu_vllm_has_its_own_copy_of_the_weights(tmp_path: Path) -> None:
    parts = {a.name: a for a in vllm_memory.on_cpu(subject(tmp_path))}
    assert parts["vLLM: base weights"].high == 596_049_920 * 2
    assert parts["vLLM: KV cache"].high == 1 << 30
