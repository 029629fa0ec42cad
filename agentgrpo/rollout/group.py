"""A group: G episodes of one task from the same start state, failed ones tried again. It knows no learning."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tenacity import AsyncRetrying, RetryCallState, retry_if_result, stop_after_attempt, wait_random_exponential

from agentgrpo.types import EpisodeKey, Group, Phase, StopReason, Task, Trajectory

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds, at most, before an episode is tried again

RunOne = Callable[[EpisodeKey, Task], Awaitable[Trajectory]]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupResult:
    """Everything that happened for one group: the scored episodes, and the attempts that have no score."""

    group: Group
    failed: tuple[Trajectory, ...]

    @property
    def trajectories(self) -> tuple[Trajectory, ...]:
        """All records, scored or not."""
        return (*self.group.trajectories, *self.failed)


async def run_group(task: Task, *, phase: Phase, step: int, size: int, retries: int, run_one: RunOne) -> GroupResult:
    """Run `size` episodes of a task concurrently; one that failed is run again, `retries` times at most."""
    async with asyncio.TaskGroup() as tasks:
        samples = [
            tasks.create_task(_run_sample(task, phase, step, sample, retries, run_one)) for sample in range(size)
        ]
    attempts = [attempt for sample in samples for attempt in sample.result()]
    scored = tuple(t for t in attempts if t.is_scored)
    failed = tuple(t for t in attempts if not t.is_scored)
    return GroupResult(group=Group(task=task, trajectories=scored), failed=failed)


async def _run_sample(
    task: Task, phase: Phase, step: int, sample: int, retries: int, run_one: RunOne
) -> list[Trajectory]:
    attempts: list[Trajectory] = []

    async def attempt() -> bool:
        key = EpisodeKey(phase=phase, step=step, task_id=task.id, sample=sample, attempt=len(attempts))
        attempts.append(await run_one(key, task))
        return attempts[-1].stop_reason is StopReason.FAILED

    await AsyncRetrying(
        retry=retry_if_result(bool),
        stop=stop_after_attempt(retries + 1),
        # Full jitter: what broke for all of them at once is not asked by all of them at once again.
        wait=wait_random_exponential(multiplier=FIRST_PAUSE, max=LONGEST_PAUSE),
        retry_error_callback=_give_up,
    )(attempt)
    return attempts


def _give_up(state: RetryCallState) -> None:
    """Leave it at the attempts made: they say why."""
