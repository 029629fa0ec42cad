from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgrpo.envstats.figures import Ended, Signal, answer, score_of, signal_of, spread_of


def ended(reward: float, group: str = "a", calls: int = 2, errors: int = 0) -> Ended:
    return Ended(group=group, reward=reward, is_success=reward >= 1, turns=3, calls=calls, errors=errors)


def groups(*rewards: tuple[float, ...]) -> list[Ended]:
    return [ended(reward, group=str(number)) for number, group in enumerate(rewards) for reward in group]


def test_a_score_is_means_with_their_intervals() -> None:
    score = score_of("oracle", [ended(1.0), ended(1.0, errors=1), ended(0.0), ended(0.5)])
    assert (score.episodes, score.success, score.reward, score.turns, score.calls) == (4, 0.5, 0.625, 3.0, 2.0)
    assert score.error_rate == 1 / 8
    assert 0.15 < score.low < 0.5 < score.high < 0.85
    spread = math.sqrt(sum((x - 0.625) ** 2 for x in (1, 1, 0, 0.5)) / 3)
    assert score.margin == pytest.approx(1.96 * spread / 2)


def test_without_calls_there_is_no_error_rate_to_divide_by() -> None:
    score = score_of("nothing", [ended(0.0, calls=0)])
    assert (score.error_rate, score.margin) == (0.0, 0.0)


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=50))
def test_a_spread_is_in_order_and_nine_of_ten_are_below_its_high(values: list[int]) -> None:
    spread = spread_of(values)
    assert min(values) <= spread.median <= spread.most == max(values)
    assert sum(value <= spread.high for value in values) >= 0.9 * len(values)
    assert sum(value < spread.high for value in values) < 0.9 * len(values)


def test_a_signal_counts_groups_that_differ() -> None:
    signal = signal_of(groups((1, 1), (0, 1), (0, 0), (0.5, 0.5, 0.5)))
    assert signal is not None
    assert (signal.groups, signal.differing, signal.share) == (4, 1, 0.25)
    assert signal.within == pytest.approx(0.5 / 4)
    assert signal.success == pytest.approx(3 / 9)
    assert signal.low < 0.25 < signal.high


def test_an_episode_alone_says_nothing_about_differences() -> None:
    assert signal_of(groups((1,), (0,))) is None
    whole = signal_of(groups((1,), (0, 1)))
    assert whole is not None
    assert (whole.groups, whole.differing) == (1, 1)


def signal(differing: int, success: float) -> Signal:
    return Signal(groups=20, differing=differing, low=0.0, high=1.0, within=0.1, success=success)


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (signal(12, 0.5), "Yes: in 60% of the groups do episodes differ"),
        (signal(12, 0.5), "of a train step's 16 groups, about 10 would train."),
        (signal(1, 0.05), "Little: in 5% of the groups"),
        (signal(1, 0.05), "demonstrate first ([warm_start], agentgrpo model sft), or begin with easier tasks."),
        (signal(1, 0.95), "take harder tasks."),
        (signal(0, 1.0), "No: every episode of 20 groups succeeds; take harder tasks."),
        (signal(0, 0.0), "No: no episode of 20 groups succeeds, and all of a group earn the same; demonstrate first"),
        (signal(0, 0.4), "No: within each of 20 groups all episodes earn the same (40% of them succeed)"),
    ],
)
def test_the_answer_says_what_to_do(found: Signal, told: str) -> None:
    assert told in answer(found, 16)
