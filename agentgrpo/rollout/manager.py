"""The rollout manager: many groups at once, each episode at its own pace, every one counted.

It decides what runs when; what an episode does is `episode.py`'s, what comes of it the caller's.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Self

from agentgrpo.activity import Activity
from agentgrpo.chat import Chat
from agentgrpo.config.run import RolloutConfig
from agentgrpo.engines import Engine
from agentgrpo.errors import EpisodeError, RunError
from agentgrpo.registry import EnvSource
from agentgrpo.rollout.admission import Admission, CountsPreemptions
from agentgrpo.rollout.episode import Begin, Stage, run_episode
from agentgrpo.rollout.group import GroupClock, GroupResult, run_group
from agentgrpo.rollout.isolation import EnvHosts
from agentgrpo.rollout.outage import check_outage
from agentgrpo.rollout.record import Recorder
from agentgrpo.rollout.scoring import Scorer
from agentgrpo.rollout.speaker import Given, Reciter, Speaker, TokenSpeaker
from agentgrpo.rollout.turn import Limits
from agentgrpo.seeds import derive_seed
from agentgrpo.types import EpisodeKey, Failure, Phase, Policy, Sampling, StopReason, Task, Trajectory

OnEpisode = Callable[[Trajectory], Awaitable[None]]


@dataclass(slots=True)
class Counts:
    """Every dispatched episode reaches exactly one end."""

    dispatched: int = 0
    ends: Counter[StopReason] = field(default_factory=Counter)
    running: set[EpisodeKey] = field(default_factory=set)

    @property
    def open(self) -> int:
        return self.dispatched - sum(self.ends.values())

    def begin(self, key: EpisodeKey) -> None:
        """Count an episode that is dispatched."""
        if key in self.running:
            raise RunError(f"episode {key} was dispatched while it runs: this is a bug")
        self.dispatched += 1
        self.running.add(key)

    def end(self, key: EpisodeKey, stop_reason: StopReason) -> None:
        """Count its end."""
        self.running.remove(key)
        self.ends[stop_reason] += 1

    def reuse(self, trajectory: Trajectory) -> None:
        """Count an episode that had been dispatched, and had ended, before the run was stopped."""
        self.begin(trajectory.key)
        self.end(trajectory.key, trajectory.stop_reason)

    def check(self) -> None:
        """Raise RunError unless every episode dispatched has ended or runs."""
        if self.open != len(self.running):
            raise RunError(
                f"{self.dispatched} episodes were dispatched but {dict(self.ends)} ended and {len(self.running)} run: "
                "this is a bug"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """How an episode starts, where it does not just begin anew.

    Args:
        seed: Of its environment; None: that of its task in this run.
        begin: Brings the environment to its first state; None: a reset.
        given: What is said first, in place of its policy.
    """

    seed: int | None = None
    begin: Begin | None = None
    given: tuple[Given, ...] = ()


_ANEW = Start()


class Rollouts(ABC):
    """Runs groups of episodes of one environment; who acts in them is a subclass's. Use as an async context manager.

    Args:
        source: The environment.
        config: Limits and retries.
        seed: The run's.
        places: Episodes at once.
        context_length: Of the policy; None where only the policy knows.
        activity: Is told what is waited for.
        scorer: Scores episodes besides their environment.
    """

    def __init__(
        self,
        source: EnvSource,
        config: RolloutConfig,
        *,
        seed: int,
        places: int,
        context_length: int | None,
        activity: Activity | None = None,
        scorer: Scorer | None = None,
    ) -> None:
        self.scorer = scorer
        self.source, self.config, self.seed = source, config, seed
        self.counts, self.activity = Counts(), activity or Activity()
        self.limits = Limits(
            max_turns=config.max_turns,
            max_tokens=config.max_tokens,
            max_turn_tokens=config.max_turn_tokens,
            context_length=context_length,
            episode_seconds=config.episode_seconds,
            generate_seconds=config.generate_seconds,
        )
        self.admission = Admission(places)
        self._hosts: EnvHosts | None = None

    @property
    def preemptions(self) -> int:
        """How often the policy's side has said that so many episodes at once are too many for it."""
        return 0

    @abstractmethod
    def speaker(self, recorder: Recorder, sampling: Sampling) -> Speaker:
        """Return who acts in an episode; `sampling.seed` is the episode's own."""

    async def __aenter__(self) -> Self:
        if self.scorer is not None:
            await self.scorer.__aenter__()
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
        if self.scorer is not None:
            await self.scorer.__aexit__(*exc)

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
        async with asyncio.TaskGroup() as group:
            jobs = [
                group.create_task(
                    self.group(
                        task,
                        policy=policy,
                        phase=phase,
                        step=step,
                        group_size=group_size,
                        sampling=sampling,
                        on_episode=on_episode,
                        finished=finished,
                    )
                )
                for task in tasks
            ]
        results = [job.result() for job in jobs]
        self.check(results)
        return results

    async def episode(
        self, key: EpisodeKey, task: Task, *, policy: Policy, sampling: Sampling, start: Start
    ) -> Trajectory:
        """Run one episode, once, under a key of the caller's choosing; `sampling` as for `rollout`."""
        return await self._run_one(key, task, policy, sampling, GroupClock(None), start)

    async def group(
        self,
        task: Task,
        *,
        policy: Policy,
        phase: Phase,
        step: int,
        group_size: int,
        sampling: Sampling,
        on_episode: OnEpisode | None = None,
        finished: Mapping[EpisodeKey, Trajectory] | None = None,
    ) -> GroupResult:
        """Run one group; see `rollout`. A training group has `rollout.group_seconds` from its first episode's start."""
        clock = GroupClock(self.config.group_seconds if phase == "train" else None)

        async def run_one(key: EpisodeKey, task: Task) -> Trajectory:
            known = finished.get(key) if finished else None
            trajectory = known or await self._run_one(key, task, policy, sampling, clock)
            if known is not None:
                self.counts.reuse(known)
            if on_episode is not None:
                await on_episode(trajectory)
            return trajectory

        result = await run_group(
            task,
            phase=phase,
            step=step,
            size=group_size,
            retries=self.config.retries,
            run_one=run_one,
            clock=clock,
        )
        # A rank says how good an episode is beside its group, so nothing where policies are compared.
        return result if self.scorer is None or phase != "train" else await self.scorer.group(result)

    def check(self, results: Sequence[GroupResult]) -> None:
        """Raise RunError when the counts do not add up, or too many episodes of these groups have no score."""
        self.counts.check()
        check_outage(results, self.config.max_failed_share)

    async def _run_one(
        self,
        key: EpisodeKey,
        task: Task,
        policy: Policy,
        sampling: Sampling,
        clock: GroupClock,
        start: Start = _ANEW,
    ) -> Trajectory:
        # The start state is the task's: equal for all samples, attempts, steps. What is sampled is the episode's.
        seed = derive_seed(self.seed, "env", task.id) % 2**31 if start.seed is None else start.seed
        recorder = Recorder(key=key, env_id=self.source.id_of(task.row), seed=seed, policy=policy)
        trajectory = None
        try:
            async with clock.limit(), self._place(key):
                clock.start()
                self.counts.begin(key)
                recorder.begin()
                trajectory = await self._attempt(recorder, task, sampling, start)
        except TimeoutError:  # the group's time is over: of an episode, or of what was to be cleared up after it
            trajectory = recorder.frozen or recorder.freeze(StopReason.CANCELLED)
        finally:
            self._count_end(key, trajectory)
        # Its place is free: others play while it is scored.
        return trajectory if self.scorer is None else await self.scorer.episode(trajectory, task, recorder.state)

    def _count_end(self, key: EpisodeKey, trajectory: Trajectory | None) -> None:
        if key not in self.counts.running:
            if trajectory is None:
                return  # cancelled before it began
            self.counts.begin(key)  # cut off in the queue
        self.counts.end(key, trajectory.stop_reason if trajectory is not None else StopReason.CANCELLED)
        if self.admission.answer(self.preemptions):
            self.activity.trouble(
                "preemptions",
                "the engine's cache is too small for that many episodes at once, it computes some twice: at most "
                f"{self.admission.limit} run now; lower rollout.concurrency, or give the engine more memory",
            )

    @asynccontextmanager
    async def _place(self, key: EpisodeKey) -> AsyncIterator[None]:
        with self.activity.waiting(str(key), "place"):
            await self.admission.enter()
        try:
            yield
        finally:
            self.admission.leave()

    async def _attempt(self, recorder: Recorder, task: Task, sampling: Sampling, start: Start) -> Trajectory:
        key = recorder.key
        episode_seed = derive_seed(self.seed, key.phase, key.step, key.task_id, key.sample, key.attempt)
        if self._hosts is None:
            raise RunError("use the rollout manager as an async context manager: async with manager: ...")
        host = self._hosts.make()
        speaker = self.speaker(recorder, replace(sampling, seed=episode_seed))
        speaker = Reciter(speaker, start.given) if start.given else speaker
        stage = Stage(host=host, speaker=speaker, limits=self.limits, activity=self.activity, begin=start.begin)
        try:
            trajectory = await run_episode(recorder, task, stage)
            if self.scorer is not None and self.scorer.needs_state and trajectory.is_scored:
                recorder.state = await host.state()
            return trajectory
        except EpisodeError as error:
            return recorder.freeze(StopReason.FAILED, Failure(boundary=error.boundary, cause=str(error)))
        finally:
            await host.close()


class RolloutManager(Rollouts):
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
        scorer: Scorer | None = None,
    ) -> None:
        self.chat, self.engine = chat, engine
        super().__init__(
            source,
            config,
            seed=seed,
            # An episode keeps its slot in the engine from its first turn to its last.
            places=min(config.concurrency, engine.max_sequences),
            context_length=engine.context_length,
            activity=activity,
            scorer=scorer,
        )

    @property
    def preemptions(self) -> int:
        """How often the engine's cache was too small."""
        return self.engine.preemptions if isinstance(self.engine, CountsPreemptions) else 0

    def speaker(self, recorder: Recorder, sampling: Sampling) -> Speaker:
        """Return the policy that the recorder names, behind the engine."""
        return TokenSpeaker(recorder, self.engine, self.chat, self.limits, sampling, self.activity)
