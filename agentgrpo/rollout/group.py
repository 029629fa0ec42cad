"""A group: G episodes of one task from the same start state, failed ones tried again. It knows no learning."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
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

    @property
    def cut(self) -> int:
        """How many episodes the group's deadline cut off."""
        return sum(t.stop_reason is StopReason.CANCELLED for t in self.failed)

    @property
    def broken(self) -> int:
        """How many episodes broke and were never scored; also those the deadline cut off when they were tried again."""
        broken = {t.key.sample for t in self.failed if t.stop_reason is not StopReason.CANCELLED}
        return len(broken - {t.key.sample for t in self.group.trajectories})


class GroupClock:
    """The time a group has, from when its first episode starts; None: as long as it takes."""

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self._end: float | None = None  # by the clock of the event loop
        self._limits: set[asyncio.Timeout] = set()

    def start(self) -> None:
        """Let the time run, if it does not yet."""
        if self.seconds is not None and self._end is None:
            self._end = asyncio.get_running_loop().time() + self.seconds
            for limit in self._limits:
                limit.reschedule(self._end)

    @asynccontextmanager
    async def limit(self) -> AsyncIterator[None]:
        """Cut the block off with a TimeoutError when the time is over, also when it starts only later."""
        async with asyncio.timeout_at(self._end) as limit:
            self._limits.add(limit)
            try:
                yield
            finally:
                self._limits.discard(limit)

    @property
    def left(self) -> float:
        """Seconds left."""
        return math.inf if self._end is None else max(0.0, self._end - asyncio.get_running_loop().time())


async def run_group(
    task: Task,
    *,
    phase: Phase,
    step: int,
    size: int,
    retries: int,
    run_one: RunOne,
    clock: GroupClock | None = None,
) -> GroupResult:
    """Run `size` episodes of a task concurrently; one that failed is run again, `retries` times at most.

    The clock runs on while `run_one` queues for a place, as every episode that is tried again does anew.
    """
    clock = clock or GroupClock(None)
    async with asyncio.TaskGroup() as tasks:
        samples = [
            tasks.create_task(_run_sample(task, phase, step, sample, retries, run_one, clock)) for sample in range(size)
        ]
    attempts = [attempt for sample in samples for attempt in sample.result()]
    scored = tuple(t for t in attempts if t.is_scored)
    failed = tuple(t for t in attempts if not t.is_scored)
    return GroupResult(group=Group(task=task, trajectories=scored), failed=failed)


async def _run_sample(
    task: Task, phase: Phase, step: int, sample: int, retries: int, run_one: RunOne, clock: GroupClock
) -> list[Trajectory]:
    attempts: list[Trajectory] = []
    # Full jitter: what broke for all of them at once is not asked by all of them at once again.
    jitter = wait_random_exponential(multiplier=FIRST_PAUSE, max=LONGEST_PAUSE)

    async def attempt() -> bool:
        key = EpisodeKey(phase=phase, step=step, task_id=task.id, sample=sample, attempt=len(attempts))
        attempts.append(await run_one(key, task))
        return attempts[-1].stop_reason is StopReason.FAILED

    await AsyncRetrying(
        retry=retry_if_result(bool),
        stop=stop_after_attempt(retries + 1),
        wait=lambda state: min(jitter(state), clock.left),
        retry_error_callback=_give_up,
    )(attempt)
    return attempts


def _give_up(state: RetryCallState) -> None:
    """Leave it at the attempts made: they say why."""
