"""Who holds the card when: sizes in gigabytes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgrpo.config.run import load_config
from agentgrpo.engines.card import RESERVE, CardNeeds, card_needs, plan_card, say_no

QWEN3_17B = {  # Qwen/Qwen3-1.7B
    "hidden_size": 2048,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 6144,
    "vocab_size": 151936,
}
GIB = 1 << 30


@pytest.mark.parametrize(
    ("total", "learner", "step", "engine", "wanted", "mode"),
    [
        (80, 10, 15, 9, 40, "both"),  # a 4B model in bf16 on a large card
        (24, 4, 6, 4, 15, "both"),  # 8.6 of the 15 wanted are enough
        (24, 8, 8, 4, 15, "sleep"),  # 2.6 beside a microbatch are not
        (24, 16, 4, 16, 15, None),  # two copies of the weights do not fit
        (24, 4, 20, 4, 15, None),  # nor does a microbatch beside the learner's own
    ],
)
def test_sizes_decide(total: float, learner: float, step: float, engine: float, wanted: float, mode: str) -> None:
    plan = plan_card(CardNeeds(learner=learner, step=step, engine=engine, wanted=wanted, least=1), total)
    assert (plan.mode if plan else None) == mode


def test_the_example_for_24_gb_fits_such_a_card_whole() -> None:
    config = load_config(Path(__file__).parents[2] / "examples" / "qwen3_1_7b_24gb.toml")
    assert config.engine.context_length is not None
    needs = card_needs(
        config,
        QWEN3_17B,
        weights=1.72e9 * 2,
        adapter_parameters=17_432_576,
        dtype_bytes=2,
        context_length=config.engine.context_length,
        versions=4,
    )
    plan = plan_card(needs, 0.98 * 24 * GIB)
    assert plan is not None and (plan.mode, plan.cache) == ("both", needs.wanted)


def test_asynchronous_training_takes_less_cache_rather_than_turns() -> None:
    needs = CardNeeds(learner=8, step=8, engine=4, wanted=15, least=1)
    plan = plan_card(needs, 24, may_sleep=False)
    assert plan is not None and plan.mode == "both"
    assert plan.cache == pytest.approx(2.56)
    assert plan_card(replace(needs, step=10), 24, may_sleep=False) is None
    assert "as train.max_staleness asks" in say_no(needs, 24, may_sleep=False)


def needs_of(**keys: Any) -> CardNeeds:
    config = load_config({"engine": {"kind": "vllm", "max_sequences": 64}, **keys})
    return card_needs(
        config,
        QWEN3_17B,
        weights=1.72e9 * 2,
        adapter_parameters=17_432_576,
        dtype_bytes=2,
        context_length=4096,
        versions=4,
    )


def test_what_a_known_model_needs() -> None:
    needs = needs_of()
    assert needs.least == 4096 * 2 * 28 * 8 * 128 * 2  # one sequence
    assert needs.wanted == 64 * needs.least
    assert needs.learner == pytest.approx(3.44e9 + 17.4e6 * 16, rel=0.01)
    given = needs_of(engine={"kind": "vllm", "vllm": {"kv_cache_gib": 3.0}})
    assert given.wanted == given.least == 3 * GIB
    halved = needs_of(engine={"kind": "vllm", "max_sequences": 64, "vllm": {"tensor_parallel_size": 2}})
    assert halved.wanted == needs.wanted / 2
    assert needs_of(model={"gradient_checkpointing": True}).step < needs.step


size = st.floats(0.1, 100)


@given(size, size, size, size, size, st.booleans())
def test_a_plan_never_takes_more_than_the_card_has(
    learner: float, step: float, engine: float, wanted: float, total: float, may_sleep: bool
) -> None:
    least = wanted / 64
    needs = CardNeeds(learner=learner, step=step, engine=engine, wanted=wanted, least=least)
    plan = plan_card(needs, total, may_sleep=may_sleep)
    if plan is None:
        return
    usable = (1 - RESERVE) * total + 1e-6
    assert least - 1e-6 <= plan.cache <= wanted
    assert learner + engine + plan.cache <= usable  # rolling out
    awake = engine + plan.cache if plan.mode == "both" else 0
    assert learner + step + awake <= usable  # learning
    assert may_sleep or plan.mode == "both"
    assert plan.utilization <= 1
