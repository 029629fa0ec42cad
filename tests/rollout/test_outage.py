from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgrpo.errors import RunError
from agentgrpo.rollout.group import GroupResult
from agentgrpo.rollout.outage import check_outage
from agentgrpo.types import Boundary, EpisodeKey, Failure, Group, Policy, StopReason, Task, Trajectory

TASK = Task(id="t", row={})


def attempt(sample: int, number: int, cause: str | None) -> Trajectory:
    """Return an attempt; without a cause it is scored."""
    return Trajectory(
        key=EpisodeKey(phase="train", step=1, task_id="t", sample=sample, attempt=number),
        env_id="e",
        seed=0,
        policy=Policy(),
        prompt=(),
        tools=(),
        spans=(),
        turns=(),
        stop_reason=StopReason.DONE if cause is None else StopReason.FAILED,
        reward=1.0 if cause is None else None,
        failure=None if cause is None else Failure(boundary=Boundary.TOOL, cause=cause),
    )


def result(*attempts: Trajectory) -> GroupResult:
    scored = tuple(t for t in attempts if t.is_scored)
    return GroupResult(
        group=Group(task=TASK, trajectories=scored), failed=tuple(t for t in attempts if not t.is_scored)
    )


@given(st.integers(0, 8), st.integers(1, 8), st.sampled_from([0.0, 0.25, 0.5, 1.0]))
def test_more_lost_than_allowed_stops_the_run(lost: int, kept: int, limit: float) -> None:
    made = result(*[attempt(i, 0, "down" if i < lost else None) for i in range(lost + kept)])
    if lost > limit * (lost + kept):
        with pytest.raises(RunError, match=rf"^{lost} of {lost + kept} episodes .*_share = {limit:.0%}"):
            check_outage([made], limit)
    else:
        check_outage([made], limit)


def test_what_a_retry_healed_is_not_lost() -> None:
    check_outage([result(*[attempt(i, n, "down" if n == 0 else None) for i in range(4) for n in range(2)])], 0.0)


def test_the_most_frequent_cause_is_told() -> None:
    made = result(*[attempt(i, n, "asleep" if i else "odd") for i in range(3) for n in range(2)])
    with pytest.raises(RunError, match=r"Most frequent cause \(4 of 6 failed attempts\), tool: asleep\. Mend it"):
        check_outage([made], 0.5)


def test_a_deadline_that_ends_the_tries_hides_no_outage() -> None:
    broke = [attempt(sample, 0, "down") for sample in range(3)]
    cut = [replace(attempt(sample, 1, "x"), stop_reason=StopReason.CANCELLED, failure=None) for sample in range(3)]
    with pytest.raises(RunError, match=r"^3 of 4 episodes .*tool: down"):
        check_outage([result(*broke, *cut, attempt(3, 0, None))], 0.5)
    check_outage([result(*cut, attempt(3, 0, None))], 0.5)


def test_nothing_rolled_out_is_no_outage() -> None:
    check_outage([], 0.0)
