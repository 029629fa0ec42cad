"""Learning rates by step."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgrpo.learner.schedule import Schedule, learning_rate

KINDS: tuple[Schedule, ...] = ("constant", "linear", "cosine")


def rates(kind: Schedule, *, warmup_steps: int, total_steps: int) -> list[float]:
    steps = range(total_steps + 1)
    return [learning_rate(s, peak=1.0, kind=kind, warmup_steps=warmup_steps, total_steps=total_steps) for s in steps]


def test_constant_stays() -> None:
    assert rates("constant", warmup_steps=0, total_steps=3) == [1.0] * 4


def test_linear_falls_to_zero_one_step_after_the_last() -> None:
    assert rates("linear", warmup_steps=0, total_steps=4) == pytest.approx([1.0, 0.75, 0.5, 0.25, 0.0])


def test_cosine_is_half_way_in_the_middle() -> None:
    expected = [1.0, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125), 0.0]
    assert rates("cosine", warmup_steps=0, total_steps=4) == pytest.approx(expected)


@pytest.mark.parametrize("kind", KINDS)
def test_warmup_rises_to_the_peak_and_never_starts_at_zero(kind: Schedule) -> None:
    assert rates(kind, warmup_steps=3, total_steps=10)[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_is_all_warmup_has_no_division_by_zero(kind: Schedule) -> None:
    assert rates(kind, warmup_steps=5, total_steps=2)[-1] == pytest.approx(0.5)
    assert rates(kind, warmup_steps=2, total_steps=2)[-1] == pytest.approx(1.0)


@given(
    step=st.integers(0, 500),
    kind=st.sampled_from(KINDS),
    warmup=st.integers(0, 50),
    total=st.integers(1, 200),
    peak=st.floats(1e-8, 1.0),
)
def test_rates_stay_within_zero_and_the_peak_and_every_step_of_a_run_learns(
    step: int, kind: Schedule, warmup: int, total: int, peak: float
) -> None:
    rate = learning_rate(step, peak=peak, kind=kind, warmup_steps=warmup, total_steps=total)
    assert 0.0 <= rate <= peak
    assert rate > 0.0 or step >= total
