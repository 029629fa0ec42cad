"""The rollout manager: many groups at once, each episode at its own pace, every one counted.

It decides what runs when; what an episode does is `episode.py`'s, what comes of it the caller's.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from agentgrpo.activity import Activity
from agentgrpo.chat import Chat
from agentgrpo.config import RolloutConfig
from agentgrpo.engines import Engine
from agentgrpo.errors import RunError
from agentgrpo.registry import EnvSource
from agentgrpo.rollout.episode import Stage, run_episode
from agentgrpo.rollout.group import GroupResult, run_group
from agentgrpo.rollout.isolation import EnvHosts
from agentgrpo.rollout.outage import check_outage
from agentgrpo.rollout.record import Recorder
from agentgrpo.rollout.turn import Limits
from agentgrpo.seeds import derive_seed
from agentgrpo.types import EpisodeKey, Phase, Policy, Sampling, StopReason, Task, Trajectory

OnEpisode = Callable[[Trajectory], Awaitable[None]]


@dataclass(slots=True)
class Counts:
    """Every dispatched episode reaches exactly one end."""

    dispatched: int = 0
    ends: Counter[StopReason] = field(default_factory=Counter)

    @property
    def open(self) -> int:
        return self.dispatched - sum(self.ends.values())

    def reuse(self, trajectory: Trajectory) -> None:
        """Count an episode that had been dispatched, and had ended, before the run was stopped."""
        self.dispatched += 1
        self.ends[trajectory.stop_reason] += 1

    def check(self) -> None:
        """Raise RunError unless every episode dispatched has ended."""
        if self.open:
            raise RunError(f"{self.dispatched} episodes were dispatched but {dict(self.ends)} ended: this is a bug")


class RolloutManager:
    """Runs groups of episodes of one environment against one engine. Use as an async context manager."""

    def __init__(
        self,
        source: EnvSource,
        chat: Chat,
        engine: Engine,
        config: RolloutConfig,
        *,
        seed: int,
        activity: Activity | None = None,
    ) -> None:
        self.source, self.chat, self.engine, self.config, self.seed = source, chat, engine, config, seed
        self.counts, self.activity = Counts(), activity or Activity()
        self._limits = Limits(
            max_turns=config.max_turns,
            max_tokens=config.max_tokens,
            max_turn_tokens=config.max_turn_tokens,
            context_length=engine.context_length,
            episode_seconds=config.episode_seconds,
            generate_seconds=config.generate_seconds,
        )
        # An episode keeps its slot in the engine from its first turn to its last.
        self._places = asyncio.Semaphore(min(config.concurrency, engine.max_sequences))
        self._hosts: EnvHosts | None = None

    async def __aenter__(self) -> RolloutManager:
        self._hosts = EnvHosts(
            self.source,
            concurrency=self.config.concurrency,
            seconds=self.config.tool_seconds,
            activity=self.activity,
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._hosts is not None:
            self._hosts.close()

    async def rollout(
        self,
        tasks: Sequence[Task],
        *,
        policy: Policy,
        phase: Phase,
        step: int,
        group_size: int,
        sampling: Sampling,
        on_episode: OnEpisode | None = None,
        finished: Mapping[EpisodeKey, Trajectory] | None = None,
    ) -> list[GroupResult]:
        """Run a group per task, all concurrently, and return them in the order of the tasks.

        Args:
            tasks: The tasks; the same task twice in one call is not allowed (its episodes would share their keys).
            policy: A published policy; every episode stays on it.
            phase: What the episodes are for.
            step: The train step they belong to.
            group_size: Episodes per task.
            sampling: Temperature and truncation; its seed and token budget are set per turn.
            on_episode: Awaited with each episode as soon as it ended, failed attempts included.
            finished: Episodes that need not be run: they ended before the run was stopped.

        Raises:
            RunError: the counts do not add up, or too many episodes have no score.
        """

        async def run_one(key: EpisodeKey, task: Task) -> Trajectory:
            known = finished.get(key) if finished else None
            trajectory = known or await self._run_one(key, task, policy, sampling)
            if known is not None:
                self.counts.reuse(known)
            if on_episode is not None:
                await on_episode(trajectory)
            return trajectory

        async def run(task: Task) -> GroupResult:
            return await run_group(
                task, phase=phase, step=step, size=group_size, retries=self.config.retries, run_one=run_one
            )

        async with asyncio.TaskGroup() as group:
            jobs = [group.create_task(run(task)) for task in tasks]
        self.counts.check()
        results = [job.result() for job in jobs]
        check_outage(results, self.config.max_failed_share)
        return results

    async def _run_one(self, key: EpisodeKey, task: Task, policy: Policy, sampling: Sampling) -> Trajectory:
        async with self._place(key):
            self.counts.dispatched += 1
            try:
                trajectory = await self._attempt(key, task, policy, sampling)
            except BaseException:
                self.counts.ends[StopReason.CANCELLED] += 1
                raise
            self.counts.ends[trajectory.stop_reason] += 1
            return trajectory

    @asynccontextmanager
    async def _place(self, key: EpisodeKey) -> AsyncIterator[None]:
        with self.activity.waiting(str(key), "place"):
            await self._places.acquire()
        try:
            yield
        finally:
            self._places.release()

    async def _attempt(self, key: EpisodeKey, task: Task, policy: Policy, sampling: Sampling) -> Trajectory:
        # The start state is the task's: equal for all samples, attempts, steps. What is sampled is the episode's.
        recorder = Recorder(
            key=key, env_id=self.source.id, seed=derive_seed(self.seed, "env", task.id) % 2**31, policy=policy
        )
        episode_seed = derive_seed(self.seed, key.phase, key.step, key.task_id, key.sample, key.attempt)
        if self._hosts is None:
            raise RunError("use the rollout manager as an async context manager: async with manager: ...")
        host = self._hosts.make()
        stage = Stage(
            host=host,
            engine=self.engine,
            chat=self.chat,
            limits=self._limits,
            sampling=replace(sampling, seed=episode_seed),
            activity=self.activity,
        )
        try:
            return await run_episode(recorder, task, stage)
        finally:
            await host.close()
