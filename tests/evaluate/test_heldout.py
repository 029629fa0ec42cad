from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgrpo.evaluate.heldout import summarize, wilson
from agentgrpo.types import StopReason
from tests.store.strategies import make_key, make_trajectory


@pytest.mark.parametrize(
    ("successes", "total", "low", "high"),
    [  # Newcombe 1998 (Statistics in Medicine 17, 857-872), table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (29, 29, 0.8830, 1.0),
    ],
)
def test_the_wilson_interval_has_its_published_values(successes: int, total: int, low: float, high: float) -> None:
    assert wilson(successes, total) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_wilson_interval_holds_the_rate_and_mirrors(counts: tuple[int, int]) -> None:
    wins, total = counts
    low, high = wilson(wins, total)
    assert 0.0 <= low <= wins / total + 1e-12
    assert wins / total - 1e-12 <= high <= 1.0
    assert (1 - high, 1 - low) == pytest.approx(wilson(total - wins, total), abs=1e-12)
    smaller = wilson(4 * wins, 4 * total)
    assert smaller[1] - smaller[0] < high - low


def test_failed_episodes_are_counted_not_scored() -> None:
    rewards = [1.0, 1.0, 0.0, 0.25, None]
    found = summarize(
        [make_trajectory(make_key(0, f"t{i}", 0), reward=r) for i, r in enumerate(rewards)], tasks=len(rewards)
    )
    assert (found.tasks, found.episodes, found.failed) == (5, 4, 1)
    assert found.success == 0.5
    assert found.reward == pytest.approx(0.5625)
    assert (found.low, found.high) == wilson(2, 4)
    assert found.metrics()["eval/failed"] == 1.0
    assert str(found) == "0.500 (95 % interval 0.150-0.850, 4 episodes of 5 tasks)"


def test_evaluations_compare_by_the_tasks_they_have_in_common() -> None:
    played = [make_trajectory(make_key(0, f"t{i}", 0), reward=r) for i, r in enumerate([0.0, 1.0, 1.0, None])]
    found = summarize(played, tasks=4, common={"t0", "t1"})
    assert (found.success, found.common) == (2 / 3, 0.5)
    assert summarize(played, tasks=4).common == found.success
    assert summarize(played, tasks=4, common={"t3"}).common is None  # unknown: it failed


def test_nothing_scored_is_unknown_not_zero() -> None:
    found = summarize([make_trajectory(make_key(0, "t", 0), reward=None)], tasks=1)
    assert found.success is found.low is found.high is found.reward is found.mean_turns is None
    assert found.metrics() == {"eval/tasks": 1.0, "eval/failed": 1.0}
    assert str(found) == "no episode could be scored (1 failed)"
    assert str(StopReason.FAILED) == "failed"
