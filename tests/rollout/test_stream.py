"""Groups that start all the time: the bound on staleness, nothing lost, nothing twice, slow tasks not left out."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import pytest

from agentgrpo.chat import Chat
from agentgrpo.config.run import RolloutConfig
from agentgrpo.engines.scripted import ScriptedEngine
from agentgrpo.errors import EngineFailure, RunError
from agentgrpo.registry import resolve_env
from agentgrpo.rollout.group import GroupResult
from agentgrpo.rollout.manager import RolloutManager
from agentgrpo.rollout.pacing import Pacing
from agentgrpo.rollout.record import Recorder
from agentgrpo.rollout.stream import GroupStream
from agentgrpo.tasks import TaskSampler
from agentgrpo.types import EpisodeKey, Generation, Group, Policy, Sampling, StopReason, Task, Trajectory
from tests.clock import skip_waits
from tests.rollout.stages import Desk, acting

TASKS = [Task(id=f"{'slow' if i % 4 == 0 else 'fast'}-{i}", row={}) for i in range(40)]
BATCH, SIZE = 4, 2


@pytest.fixture(autouse=True)
async def a_clock_of_its_own() -> None:
    skip_waits()


class Run:
    """A stream and a learner that takes its time."""

    def __init__(self, chat: Chat, engine: ScriptedEngine | None = None, **options: Any) -> None:
        staleness, steps = options.pop("staleness", 1), options.pop("steps", 5)
        self.finished: dict[EpisodeKey, Trajectory] = options.pop("finished", {})
        self.told: list[Trajectory] = []
        self.engine = engine or acting(chat)
        self.engine.live.clear()
        config = RolloutConfig(max_turns=3, max_tokens=200, max_turn_tokens=60, **options)
        self.manager = RolloutManager(resolve_env(Desk), chat, self.engine, config, seed=0)
        self.sampler = TaskSampler(TASKS, seed=3)
        self.steps, self.staleness = steps, staleness
        self.most_live = 0
        pacing = Pacing(batch=BATCH, group_size=SIZE, max_staleness=staleness, steps=steps)
        self.stream = GroupStream(
            self.manager,
            pacing,
            self.sampler,
            sampling=Sampling(max_tokens=0),
            on_episode=self.tell,
            finished=self.finished,
        )

    async def tell(self, trajectory: Trajectory) -> None:
        self.told.append(trajectory)

    async def publish(self, version: int) -> None:
        await self.engine.publish(None, Policy(version=version))
        self.most_live = max(self.most_live, len(self.engine.live))
        await self.stream.go_on(Policy(version=version))

    async def train(
        self, first: int = 0, *, learn: Callable[[int], float] = lambda version: 0.002
    ) -> list[list[GroupResult]]:
        """Make the steps that are left and return what each took."""
        batches = []
        async with self.manager, self.stream:
            await self.publish(first)
            for version in range(first, self.steps):
                batches.append(await self.stream.take())
                for result in batches[-1]:
                    for trajectory in result.trajectories:
                        assert 0 <= version - trajectory.policy.version <= self.staleness
                await asyncio.sleep(learn(version))
                await self.publish(version + 1)
        return batches


def keys(batches: list[list[GroupResult]]) -> list[EpisodeKey]:
    return [t.key for batch in batches for result in batch for t in result.trajectories]


@pytest.mark.parametrize("staleness", [1, 2, 5])
async def test_the_episodes_are_those_of_a_synchronous_run_each_taken_once(tiny_chat: Chat, staleness: int) -> None:
    rng = random.Random(staleness)
    engine = acting(tiny_chat, latency=lambda call: rng.random() * 0.02)
    run = Run(tiny_chat, engine, staleness=staleness, steps=6)
    taken = keys(await run.train())
    sampler = TaskSampler(TASKS, seed=3)
    synchronous = [
        EpisodeKey(phase="train", step=step, task_id=task.id, sample=sample)
        for step in range(1, 7)
        for task in sampler.next(BATCH)
        for sample in range(SIZE)
    ]
    assert sorted(taken, key=str) == sorted(synchronous, key=str)
    assert sorted(taken, key=str) == sorted((t.key for t in run.told), key=str)
    assert run.manager.counts.dispatched == len(taken) == run.manager.counts.ends.total()
    assert run.most_live <= staleness + 2  # one of them is being published
    assert list(run.engine.live) == [Policy(version=6)]


class Gated(ScriptedEngine):
    """Answers its first call when the gate opens."""

    gate: asyncio.Event

    async def generate(self, *args: Any, **kwargs: Any) -> Generation:
        is_first = not self.calls
        answer = await ScriptedEngine.generate(self, *args, **kwargs)
        if is_first:
            await self.gate.wait()
        return answer


async def test_unfinished_groups_are_carried_over_and_a_step_waits_for_the_oldest(tiny_chat: Chat) -> None:
    engine = Gated(reply=acting(tiny_chat).reply)
    engine.gate = asyncio.Event()
    run = Run(tiny_chat, engine, staleness=3, steps=6)
    carried: list[float] = []
    async with run.manager, run.stream:
        await run.publish(0)
        for version in range(6):
            if version == 3:  # its bound: three updates were made without it
                assert not engine.gate.is_set()
                asyncio.get_running_loop().call_later(0.2, engine.gate.set)
            batch = await run.stream.take()
            carried.append(run.stream.metrics["rollout/carried_over"])
            if version == 3:
                assert run.stream.metrics["time/wait_oldest"] > 0
                assert min(t.policy.version for r in batch for t in r.trajectories) == 0
            await asyncio.sleep(0.01)
            await run.publish(version + 1)
    assert min(carried[:3]) >= 1


async def test_with_every_place_taken_no_group_starts_to_queue(
    tiny_chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = acting(tiny_chat, latency=lambda call: 0.003)
    run = Run(tiny_chat, engine, staleness=5, steps=5, concurrency=3)
    most = 0
    start = GroupStream._start

    def counted(self: GroupStream, *args: Any) -> None:
        nonlocal most
        start(self, *args)
        most = max(most, sum(group.left for group in self._held.values()))

    monkeypatch.setattr(GroupStream, "_start", counted)
    await run.train()
    assert most <= 3 + SIZE - 1


class Timed(RolloutManager):
    """Groups that only take their time: their task says how much."""

    async def group(self, task: Task, **options: Any) -> GroupResult:
        await asyncio.sleep(0.012 if task.id.startswith("slow") else 0.002)
        made = []
        for sample in range(SIZE):
            key = EpisodeKey(phase="train", step=options["step"], task_id=task.id, sample=sample)
            recorder = Recorder(key=key, env_id="e", seed=0, policy=options["policy"])
            recorder.score(1.0, {})
            made.append(recorder.freeze(StopReason.DONE))
            await options["on_episode"](made[-1])
        return GroupResult(group=Group(task=task, trajectories=tuple(made)), failed=())


class Resumed(Timed):
    """One of its groups is late, and had partly ended before the run was stopped."""

    late: ClassVar[EpisodeKey]

    async def group(self, task: Task, **options: Any) -> GroupResult:
        if task.id == self.late.task_id:
            await asyncio.sleep(0.1)
        result = await super().group(task, **options)
        known = options["finished"]
        trajectories = tuple(known.get(t.key, t) for t in result.trajectories)
        return GroupResult(group=Group(task=task, trajectories=trajectories), failed=())


async def test_a_group_that_no_checkpoint_knew_is_as_old_as_what_had_ended_of_it(tiny_chat: Chat) -> None:
    """It began under version 0 in the run that was killed and begins again under version 1."""
    sampler = TaskSampler(TASKS, seed=3)
    sampler.next(BATCH)
    key = EpisodeKey(phase="train", step=2, task_id=sampler.next(BATCH)[-1].id, sample=0)
    recorder = Recorder(key=key, env_id="e", seed=0, policy=Policy(version=0))
    recorder.score(1.0, {})
    run = Run(tiny_chat, staleness=1, steps=4, concurrency=2 * SIZE, finished={key: recorder.freeze(StopReason.DONE)})
    run.manager.__class__, Resumed.late = Resumed, key
    batches = await run.train(learn=lambda version: 0.0)  # which asserts that the bound holds
    made = {t.key: t for batch in batches for result in batch for t in result.trajectories}
    assert [made[replace(key, sample=sample)].policy.version for sample in range(SIZE)] == [0, 1]


@pytest.mark.parametrize("staleness", [1, 3])
async def test_over_any_20_steps_slow_and_fast_tasks_train_as_they_were_drawn(tiny_chat: Chat, staleness: int) -> None:
    """A slow task takes six times as long as a fast one, and three times as long as an update."""
    run = Run(tiny_chat, staleness=staleness, steps=70, concurrency=BATCH * SIZE * 2)
    run.manager.__class__ = Timed
    batches = await run.train(learn=lambda version: 0.004)
    slow = [sum(result.group.task.id.startswith("slow") for result in batch) for batch in batches]
    share, count = 0.25, 20 * BATCH  # a quarter of the tasks is slow, and each epoch holds each task once
    margin = 3 * (count * share * (1 - share)) ** 0.5
    for first in range(len(slow) - 20 + 1):
        assert abs(sum(slow[first : first + 20]) - share * count) <= margin, slow
    lags = {"slow": Counter[int](), "fast": Counter[int]()}
    for version, batch in enumerate(batches):
        for result in batch:
            lags[result.group.task.id.partition("-")[0]][version - result.group.trajectories[0].policy.version] += 1
    assert max(lags["slow"]) == staleness


async def test_what_breaks_a_group_breaks_the_next_step(tiny_chat: Chat) -> None:
    run = Run(tiny_chat)

    async def tell(trajectory: Trajectory) -> None:
        if len(run.told) == 5:
            raise RunError("the disk is full")
        run.told.append(trajectory)

    run.stream._on_episode = tell
    with pytest.raises(ExceptionGroup, match="TaskGroup") as caught:
        await run.train()
    assert caught.group_contains(RunError, match="the disk is full")
    run.manager.counts.check()


async def test_closing_cancels_what_runs_and_gives_back_what_ended(tiny_chat: Chat) -> None:
    engine = acting(tiny_chat, latency=lambda call: 60.0 if call in (0, 9) else 0.001)
    run = Run(tiny_chat, engine, staleness=1)
    async with run.manager, run.stream:
        await run.publish(0)
        taken = keys([await run.stream.take()])
        await asyncio.sleep(0.05)
        left = [t.key for t in await run.stream.close()]
    assert engine.cancelled == 2
    assert sorted(taken + left, key=str) == sorted((t.key for t in run.told), key=str)
    assert run.manager.counts.ends[StopReason.CANCELLED] == 2
    run.manager.counts.check()
    assert run.manager.counts.open == 0


async def test_a_run_that_was_stopped_goes_on_with_the_groups_that_were_open(tiny_chat: Chat) -> None:
    engine = acting(tiny_chat, latency=lambda call: 60.0 if call in (0, 9) else 0.001)
    first = Run(tiny_chat, engine, staleness=2, steps=4)
    async with first.manager, first.stream:
        await first.publish(0)
        before = keys([await first.stream.take()])
        await first.publish(1)
        await asyncio.sleep(0.1)
        state, drawn = first.stream.state(), first.sampler.state()
    assert state["started"] == (1 + 2 + 1) * BATCH
    assert len(state["held"]) == state["started"] - BATCH
    assert {version for _, _, version in state["held"]} == {0, 1}
    finished = {t.key: t for t in first.told}
    again = Run(tiny_chat, staleness=2, steps=4, finished=finished)
    again.sampler.restore(drawn)
    again.stream.restore(state)
    assert again.stream.state() == state
    after = keys(await again.train(first=1))
    assert len({*before, *after}) == len(before) + len(after) == 4 * BATCH * SIZE
    # What had ended is not run again.
    run_again = {t.key for t in again.told if t is not finished.get(t.key)}
    assert len(run_again) == len(after) - len(finished) + len(before)
    assert run_again.isdisjoint(finished)


async def test_a_failed_episode_holds_its_group_until_it_was_tried_again(tiny_chat: Chat) -> None:
    engine = acting(tiny_chat, faults={i: EngineFailure("flaky") for i in range(0, 30, 7)})
    run = Run(tiny_chat, engine, staleness=2, steps=3)
    batches = await run.train()
    assert all(len(result.group.trajectories) == SIZE for batch in batches for result in batch)
    assert run.manager.counts.ends[StopReason.FAILED] > 0
    assert run.manager.counts.open == 0


async def test_an_engine_that_preempts_gets_fewer_episodes(tiny_chat: Chat) -> None:
    seen: list[int] = []

    def latency(call: int) -> float:
        seen.append(engine.preemptions)
        return 0.002

    engine = acting(tiny_chat, latency=latency, cache_sequences=4)
    run = Run(tiny_chat, engine, staleness=2, steps=30, concurrency=16)
    await run.train()
    assert run.manager.admission.limit <= 6
    assert run.manager.activity.troubles["preemptions"] >= 4
    early, late = seen[40] / 40, (seen[-1] - seen[120]) / (len(seen) - 120)
    assert late < 0.5 * early, (early, late)
