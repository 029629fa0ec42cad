"""The time forecast: sums that can be checked by hand, ranges where something cannot be known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgrpo.config.run import Config, load_config
from agentgrpo.doctor import duration
from agentgrpo.doctor.subject import Shape, StepCost, WarmStart

NOW = Shape(turns=4.0, sampled=20.0, tokens=100.0)
STEP = StepCost(
    episodes=8,
    rollout_seconds=2.0,
    rollout_wall=2.0,
    learn_seconds=1.0,
    publish_seconds=0.5,
    shape=NOW,
    longest=120,
    learn_bytes=None,
    disk_bytes=3000.0,
    sampled=160,
    is_whole=True,
    batch_tokens=800,
    batch_trained=160,
)
WARM = WarmStart(
    count=100,
    demonstration_seconds=0.01,
    tokenize_seconds=0.002,
    fit_seconds=1.0,
    step_seconds=0.1,
    demonstration_bytes=1000.0,
    step_bytes=1000,
)


def config(**sections: Any) -> Config:
    data: dict[str, Any] = {
        "rollout": {"tasks_per_step": 2, "group_size": 4},
        "train": {"steps": 10},
        "eval": {"every": 5, "during_tasks": 3},
    }
    return load_config(data | sections)


def by_name(found: list[duration.Stage]) -> dict[str, tuple[float, float]]:
    return {stage.name: (stage.low, stage.high) for stage in found}


def test_the_stages_of_a_run_whose_model_is_there() -> None:
    found = by_name(duration.stages(config(), STEP, warm=None, expert=NOW, heldout=8, start=5.0))
    assert found == {
        "start": (5.0, 5.0),
        "rollouts": (20.0, 20.0),
        "learning": (pytest.approx(0.2 * 10 + 5), 15.0),
        "evaluations": (pytest.approx(19 * 0.25), pytest.approx(19 * 0.25)),  # 8 before, 3 at step 5, 8 after
    }


def test_the_warm_start_plays_twice_and_trains_once() -> None:
    warm = config(warm_start={"sft": {"steps": 100, "episodes": 1000, "perfect_fraction": 0.5}})
    found = by_name(duration.stages(warm, STEP, warm=WARM, expert=NOW, heldout=0, start=0.0))
    assert found["warm start: demonstrations"][0] == pytest.approx(1000 * 2 * 0.012 + 8)
    assert found["warm start: training"][1] == pytest.approx(10.0)


@pytest.mark.parametrize(("fraction", "played", "tokenized"), [(0.0, 2, 1), (0.5, 2, 2), (1.0, 1, 1)])
def test_demonstrations_that_no_phase_uses_are_not_made(fraction: float, played: int, tokenized: int) -> None:
    settings = config(warm_start={"sft": {"episodes": 1000, "perfect_fraction": fraction}}).warm_start
    assert settings is not None
    cold = replace(WARM, fit_seconds=0.0)
    expected = 1000 * (played * 0.01 + tokenized * 0.002)
    assert duration.demonstrations_seconds(settings.sft, cold) == pytest.approx(expected)


def test_episodes_move_towards_what_an_oracle_needs() -> None:
    assert duration.change_of_episodes(NOW, NOW) == (1.0, 1.0)
    assert duration.change_of_episodes(NOW, Shape(turns=2.0, sampled=10.0, tokens=0.0)) == (0.5, 1.0)
    assert duration.change_of_episodes(NOW, Shape(turns=8.0, sampled=40.0, tokens=0.0)) == (1.0, 2.0)
    low, high = duration.change_of_episodes(NOW, None)
    assert low < 1 < high


def test_groups_that_are_always_trained_leave_no_range() -> None:
    always = config(learner={"drop_zero_variance": False})
    stage = duration.learning(always, STEP, (1.0, 1.0))
    assert stage.low == stage.high == pytest.approx(15.0)


def test_part_of_a_step_gives_a_range() -> None:
    some = replace(STEP, episodes=4, is_whole=False)
    assert duration.step_rollout(config(), some) == (2.0, 4.0)


@pytest.mark.parametrize(
    ("steps", "every", "heldout", "expected"),
    [(10, 5, 8, 19), (10, 0, 8, 16), (10, 100, 8, 16), (0, 5, 8, 8), (10, 5, 0, 0), (10, 2, 1, 6)],
)
def test_evaluations_are_counted_as_the_run_makes_them(steps: int, every: int, heldout: int, expected: int) -> None:
    looks = {"every": every} | ({"during_tasks": 3} if every else {})
    assert duration.evaluated(config(train={"steps": steps}, eval=looks), heldout) == expected


@given(
    seconds=st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)), max_size=5),
    hours=st.none() | st.floats(0.01, 100),
)
def test_the_total_is_ordered_and_keeps_to_the_limit(seconds: list[tuple[float, float]], hours: float | None) -> None:
    stages = [duration.Stage(name="s", low=min(pair), high=max(pair)) for pair in seconds]
    low, middle, high = duration.total(stages, hours)
    assert low <= middle * (1 + 1e-9) <= high * (1 + 1e-9) * (1 + 1e-9)
    assert hours is None or high <= hours * 3600


@pytest.mark.parametrize(("seconds", "said"), [(0.4, "0 s"), (98, "98 s"), (120, "2.0 min"), (7200, "2.0 h")])
def test_durations_are_said_as_people_do(seconds: float, said: str) -> None:
    assert duration.say(seconds) == said
