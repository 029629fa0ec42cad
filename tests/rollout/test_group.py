from __future__ import annotations

import asyncio

import pytest

from agentgrpo.rollout import group
from agentgrpo.rollout.group import GroupClock, GroupResult, run_group
from agentgrpo.rollout.record import Recorder
from agentgrpo.types import EpisodeKey, Policy, StopReason, Task, Trajectory
from tests.clock import leap
from tests.engines.stubs import settled

TASK = Task(id="t", row={})


def end(key: EpisodeKey, stop_reason: StopReason) -> Trajectory:
    made = Recorder(key=key, env_id="e", seed=0, policy=Policy())
    made.score(float(key.sample), {})
    return made.freeze(stop_reason)


async def run(ends: dict[tuple[int, int], StopReason], *, size: int = 4, retries: int = 2) -> GroupResult:
    async def run_one(key: EpisodeKey, task: Task) -> Trajectory:
        assert task is TASK
        for _ in range(size - key.sample):  # the last sample is the first to end
            await asyncio.sleep(0)
        return end(key, ends.get((key.sample, key.attempt), StopReason.DONE))

    return await run_group(TASK, phase="train", step=5, size=size, retries=retries, run_one=run_one)


async def test_a_group_is_ordered_by_sample_not_by_who_ends_first() -> None:
    result = await run({(2, 0): StopReason.MAX_TURNS})
    assert [t.key.sample for t in result.group.trajectories] == [0, 1, 2, 3]
    assert result.group.rewards == [0.0, 1.0, 2.0, 3.0]
    assert result.failed == ()
    assert {(t.key.phase, t.key.step, t.key.task_id) for t in result.trajectories} == {("train", 5, "t")}


async def test_a_failed_attempt_is_tried_again_and_left_out() -> None:
    failed = StopReason.FAILED
    result = await run({(1, 0): failed, (1, 1): failed, (3, 0): failed, (3, 1): failed, (3, 2): failed})
    assert [(t.key.sample, t.key.attempt) for t in result.group.trajectories] == [(0, 0), (1, 2), (2, 0)]
    assert [(t.key.sample, t.key.attempt) for t in result.failed] == [(1, 0), (1, 1), (3, 0), (3, 1), (3, 2)]
    assert len(result.trajectories) == 8


async def test_what_a_limit_ended_is_not_tried_again() -> None:
    result = await run({(0, 0): StopReason.DEADLINE, (1, 0): StopReason.CANCELLED}, size=2)
    assert [t.key.attempt for t in result.trajectories] == [0, 0]
    assert [t.key.sample for t in result.failed] == [1]


async def test_without_retries_there_is_one_attempt() -> None:
    result = await run({(0, 0): StopReason.FAILED}, size=1, retries=0)
    assert (len(result.group.trajectories), len(result.failed)) == (0, 1)


async def test_a_cancelled_group_cancels_its_episodes() -> None:
    running: set[int] = set()

    async def run_one(key: EpisodeKey, task: Task) -> Trajectory:
        running.add(key.sample)
        try:
            await asyncio.sleep(60)
        finally:
            running.remove(key.sample)
        return end(key, StopReason.DONE)

    job = asyncio.create_task(run_group(TASK, phase="eval", step=0, size=3, retries=0, run_one=run_one))
    await settled(lambda: running == {0, 1, 2})
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job
    assert not running


async def test_a_groups_time_runs_from_its_first_start_and_cuts_off_what_is_left() -> None:
    clock, cut = GroupClock(100), StopReason.CANCELLED

    async def run_one(key: EpisodeKey, task: Task) -> Trajectory:
        try:
            async with clock.limit():
                await asyncio.sleep(1000 * (key.sample % 2))  # those wait for a place
                clock.start()
                if key.sample == 2:
                    leap(100)
                    await asyncio.sleep(1000)
        except TimeoutError:
            return end(key, cut)
        return end(key, StopReason.DONE)

    result = await run_group(TASK, phase="train", step=1, size=4, retries=2, run_one=run_one, clock=clock)
    assert [t.key.sample for t in result.group.trajectories] == [0]
    assert [(t.key.sample, t.stop_reason) for t in result.failed] == [(1, cut), (2, cut), (3, cut)]
    assert result.cut == 3
    assert clock.left == 0


async def test_no_attempt_is_put_off_beyond_a_groups_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group, "wait_random_exponential", lambda **limits: lambda state: 1000)
    clock = GroupClock(0.05)

    async def run_one(key: EpisodeKey, task: Task) -> Trajectory:
        clock.start()
        return end(key, StopReason.FAILED if clock.left else StopReason.CANCELLED)

    async with asyncio.timeout(60):
        result = await run_group(TASK, phase="train", step=1, size=2, retries=10_000, run_one=run_one, clock=clock)
    assert result.cut == 2


async def test_without_a_deadline_a_group_has_all_the_time() -> None:
    clock = GroupClock(None)
    async with clock.limit():
        clock.start()
        await asyncio.sleep(0.01)
    assert clock.left == float("inf")
