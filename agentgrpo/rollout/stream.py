"""Groups of training episodes without a pause: started as the pace allows, carried over updates, taken when complete.

It knows neither learning nor stores. When groups start and which a step takes is decided in `pacing`.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from agentgrpo.rollout.group import GroupResult
from agentgrpo.rollout.manager import OnEpisode, RolloutManager
from agentgrpo.rollout.pacing import Pacing, Standing
from agentgrpo.tasks import TaskSampler
from agentgrpo.types import EpisodeKey, JsonObject, Policy, Sampling, StopReason, Task, Trajectory


@dataclass(slots=True, kw_only=True)
class _Held:
    """A group that was started and not yet taken."""

    number: int
    step: int  # the step it was drawn for: part of its episodes' keys, as in synchronous training
    task: Task
    policy: Policy
    version: int  # that its staleness is counted from: of its oldest episode
    left: int  # episodes that are still to end
    ended: list[Trajectory] = field(default_factory=list)
    job: asyncio.Task[GroupResult] | None = None

    @property
    def is_complete(self) -> bool:
        return self.job is not None and self.job.done()

    def result(self) -> GroupResult:
        """Return what came of it, or raise what broke it."""
        assert self.job is not None
        return self.job.result()


class GroupStream:
    """Keeps the places of a rollout manager filled with training groups. Use as an async context manager.

    A group begins under the policy that is current then and stays on it; a policy is retired when it is no longer
    current and the last of its groups has ended. The groups drawn, and the seeds of their episodes, are those of a
    synchronous run.

    Args:
        manager: Runs the groups.
        pacing: When, and which.
        sampler: Where tasks come from.
        sampling: Temperature and budget.
        on_episode: Awaited with each episode as soon as it ended.
        finished: Episodes that need not be run: they ended before the run was stopped.
    """

    def __init__(
        self,
        manager: RolloutManager,
        pacing: Pacing,
        sampler: TaskSampler,
        *,
        sampling: Sampling,
        on_episode: OnEpisode,
        finished: Mapping[EpisodeKey, Trajectory] | None = None,
    ) -> None:
        self.manager, self.pacing, self.sampler, self.sampling = manager, pacing, sampler, sampling
        self.policy: Policy | None = None  # that new groups begin under
        self.started = 0
        self._on_episode, self._finished = on_episode, finished or {}
        self._begun: dict[tuple[int, str], int] = {}  # the oldest version of what had ended of each group
        for key, known in self._finished.items():
            if key.phase == "train":
                oldest = self._begun.get((key.step, key.task_id), known.policy.version)
                self._begun[key.step, key.task_id] = min(oldest, known.policy.version)
        self._drawn: deque[Task] = deque()
        self._held: dict[int, _Held] = {}
        self._users: Counter[Policy] = Counter()  # groups that run, by policy
        self._left_over: list[tuple[int, Task, int]] = []  # groups of a run that was stopped, to begin again
        self.metrics: dict[str, float] = {}  # of the last `take`: how things stood then
        self._is_closed = False
        self._news = asyncio.Event()

    async def __aenter__(self) -> GroupStream:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def go_on(self, policy: Policy) -> None:
        """Begin new groups under a policy that was published, and retire the one before if nothing uses it any more."""
        before, self.policy = self.policy, policy
        while self._left_over:
            number, task, _ = self._left_over.pop(0)
            self._start(number, task, policy)
        self._fill()
        if before is not None:
            await self._retire_unused(before)

    async def take(self, advance: Callable[[int], None] = lambda count: None) -> list[GroupResult]:
        """Return the groups of the next train step, in the order they were drawn, as soon as it can be made.

        Args:
            advance: Is told how many more groups of the step are complete.

        Raises:
            RunError: the counts do not add up, too many episodes have no score, or what broke a group.
        """
        assert self.policy is not None, "go_on comes first"
        waited, told = 0.0, 0
        while (chosen := self.pacing.choose(self._standing(), self.policy.version)) is None:
            clock, is_held_up = time.perf_counter(), self.pacing.is_held_up(self._standing(), self.policy.version)
            self._news.clear()
            await self._news.wait()
            waited += (time.perf_counter() - clock) * is_held_up
            complete = min(self.pacing.batch, sum(group.is_complete for group in self._held.values()))
            advance(complete - told)
            told = complete
        results = [self._held.pop(number).result() for number in chosen]
        self.metrics = self._metrics(waited)
        self.manager.check(results)
        return results

    async def close(self) -> list[Trajectory]:
        """Cancel what runs; return the episodes that had ended in groups nobody took. Safe to call twice."""
        self._is_closed = True
        held, self._held = list(self._held.values()), {}
        jobs = [group.job for group in held if group.job is not None]
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        return [trajectory for group in held for trajectory in group.ended]

    def state(self) -> JsonObject:
        """Return what a resumed run needs as JSON: which groups were started and are not trained."""
        held = [[group.number, group.task.id, group.version] for group in self._held.values()]
        left_over = [[number, task.id, version] for number, task, version in self._left_over]
        return {"started": self.started, "drawn": [task.id for task in self._drawn], "held": held + left_over}

    def restore(self, state: JsonObject) -> None:
        """Go on from `state()`: groups that were open begin again at `go_on`, with the episodes that had ended."""
        tasks = {task.id: task for task in self.sampler.tasks}
        self.started, self._drawn = state["started"], deque(tasks[id] for id in state["drawn"])
        self._left_over = [(number, tasks[id], version) for number, id, version in state["held"]]

    def _fill(self) -> None:
        """Start the groups that may start now."""
        if self.policy is None or self._is_closed:
            return
        idle = self.manager.admission.limit - sum(group.left for group in self._held.values())
        for _ in range(self.pacing.room(self.policy.version, self.started, idle=idle)):
            if not self._drawn:
                self._drawn.extend(self.sampler.next(self.pacing.batch))
            self._start(self.started, self._drawn.popleft(), self.policy)
            self.started += 1

    def _start(self, number: int, task: Task, policy: Policy) -> None:
        step = number // self.pacing.batch + 1
        # Also a group that no checkpoint knows may have begun before the run was stopped, under an older policy.
        version = self._begun.get((step, task.id), policy.version)
        group = _Held(number=number, step=step, task=task, policy=policy, version=version, left=self.pacing.group_size)
        self._held[number] = group
        self._users[policy] += 1
        group.job = asyncio.create_task(self._run(group), name=f"group {step}/{task.id}")
        group.job.add_done_callback(lambda _: self._news.set())

    async def _run(self, group: _Held) -> GroupResult:
        async def on_episode(trajectory: Trajectory) -> None:
            group.ended.append(trajectory)
            await self._on_episode(trajectory)
            is_tried_again = trajectory.key.attempt < self.manager.config.retries
            if trajectory.stop_reason is not StopReason.FAILED or not is_tried_again:
                group.left -= 1
                self._fill()

        try:
            result = await self.manager.group(
                group.task,
                policy=group.policy,
                phase="train",
                step=group.step,
                group_size=self.pacing.group_size,
                sampling=self.sampling,
                on_episode=on_episode,
                finished=self._finished,
            )
        finally:
            self._users[group.policy] -= 1
        await self._retire_unused(group.policy)
        return result

    async def _retire_unused(self, policy: Policy) -> None:
        if policy != self.policy and not self._users[policy]:
            del self._users[policy]
            with self.manager.activity.waiting(str(policy), "retire"):
                await self.manager.engine.retire(policy)

    def _metrics(self, waited: float) -> dict[str, float]:
        complete = sum(group.is_complete for group in self._held.values())
        return {
            "rollout/carried_over": float(len(self._held) - complete),
            "rollout/ready": float(complete),
            "rollout/versions": float(len({self.policy, *+self._users})),
            "rollout/concurrency": float(self.manager.admission.limit),
            "time/wait_oldest": waited,
        }

    def _standing(self) -> list[Standing]:
        for group in self._held.values():
            if group.is_complete:
                group.result()  # raises what broke it
        return [
            Standing(number=group.number, version=group.version, is_complete=group.is_complete)
            for group in self._held.values()
        ]
