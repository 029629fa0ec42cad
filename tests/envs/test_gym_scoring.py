from __future__ import annotations

import pytest

from agentgrpo.envs.gym_text.scoring import Scoring
from agentgrpo.errors import EnvError

BOTH = ("outcome", "return")


@pytest.mark.parametrize(
    ("success", "rewards", "outcome"),
    [
        (None, [0.0, 0.5], 1.0),
        (None, [1.0, 0.0], 0.0),
        (None, [-1.0], 0.0),
        (20.0, [-1.0, 20.0], 1.0),
        (20.0, [19.0], 0.0),
    ],
)
def test_the_last_reward_decides_on_success(success: float | None, rewards: list[float], outcome: float) -> None:
    scoring = Scoring(terms=BOTH, success=success)
    assert scoring.of(rewards, is_ended=True) == {"outcome": outcome, "return": sum(rewards)}


def test_an_episode_that_the_environment_did_not_end_is_no_success() -> None:
    assert Scoring(terms=BOTH, success=None).of([1.0], is_ended=False) == {"outcome": 0.0, "return": 1.0}
    assert Scoring(terms=BOTH, success=None).of([], is_ended=False) == {"outcome": 0.0, "return": 0.0}


def test_only_the_terms_wanted_are_there() -> None:
    assert Scoring(terms=("return",), success=None).of([2.0], is_ended=True) == {"return": 2.0}


def test_a_term_that_does_not_exist_is_refused() -> None:
    with pytest.raises(EnvError, match=r"no term 'retrun'; expected outcome or return\. Did you mean 'return'"):
        Scoring(terms=("retrun",), success=None)
