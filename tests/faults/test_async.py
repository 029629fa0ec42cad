"""Asynchronous rollouts among environments that crash and episodes that hang: all is counted, nothing trained twice."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any, ClassVar

import pytest

from agentgrpo.chat import Chat
from agentgrpo.config.run import RolloutConfig
from agentgrpo.registry import resolve_env
from agentgrpo.rollout import group
from agentgrpo.rollout.group import GroupResult
from agentgrpo.rollout.manager import RolloutManager
from agentgrpo.rollout.pacing import Pacing
from agentgrpo.rollout.stream import GroupStream
from agentgrpo.tasks import TaskSampler
from agentgrpo.types import Policy, Sampling, StopReason, Task, Trajectory
from tests.clock import skip_waits
from tests.faults.conftest import Ledger
from tests.faults.outside import nothing_left_behind
from tests.rollout.stages import Desk, acting

BATCH, SIZE, STALENESS = 4, 3, 2
HANG, DEADLINE = 60.0, 0.5  # seconds: a straggler, and what a group has (a minute against ten, scaled down)


@pytest.fixture(autouse=True)
async def a_clock_of_its_own() -> None:
    skip_waits()


class Crashing(Desk):
    """Raises in the resets, steps and scores that were drawn for it."""

    rng: ClassVar[random.Random] = random.Random()
    share: ClassVar[float] = 0.0
    crashes: ClassVar[int] = 0

    def reset(self, **options: Any) -> Any:
        self.maybe_crash()
        return super().reset(**options)

    def step(self, action: str) -> Any:
        self.maybe_crash()
        return super().step(action)

    @classmethod
    def maybe_crash(cls) -> None:
        if cls.rng.random() < cls.share:
            cls.crashes += 1
            raise RuntimeError("the environment crashed")


async def train(
    chat: Chat, env: type[Desk], *, steps: int, stragglers: float, **options: Any
) -> tuple[RolloutManager, list[GroupResult], list[Trajectory], int]:
    """Make steps under a learner that takes 5 ms; return the manager, what was taken, what was told, who hung."""
    rng, hung, told = random.Random(11), 0, list[Trajectory]()

    def latency(call: int) -> float:
        nonlocal hung
        is_hung = rng.random() < stragglers
        hung += is_hung
        return HANG if is_hung else 0.002

    async def tell(trajectory: Trajectory) -> None:
        told.append(trajectory)

    engine = acting(chat, latency=latency)
    engine.live.clear()
    config = RolloutConfig(max_turns=2, max_tokens=200, max_turn_tokens=60, **options)
    manager = RolloutManager(resolve_env(env), chat, engine, config, seed=0)
    pacing = Pacing(batch=BATCH, group_size=SIZE, max_staleness=STALENESS, steps=steps)
    sampler = TaskSampler([Task(id=f"t{i}", row={}) for i in range(20)], seed=1)
    taken: list[GroupResult] = []
    stream = GroupStream(manager, pacing, sampler, sampling=Sampling(max_tokens=0), on_episode=tell)
    async with manager, stream:
        for version in range(steps):
            await engine.publish(None, Policy(version=version))
            await stream.go_on(Policy(version=version))
            assert len(engine.live) <= STALENESS + 1
            clock = asyncio.get_running_loop().time()
            taken += await stream.take()
            if options.get("group_seconds"):
                assert asyncio.get_running_loop().time() - clock < DEADLINE + 1.0
            await asyncio.sleep(0.005)
    return manager, taken, told, hung


def check(manager: RolloutManager, taken: list[GroupResult], told: list[Trajectory], steps: int) -> int:
    """Return how many episodes were lost: dispatched without an end, ended without being taken, or taken twice."""
    manager.counts.check()
    keys = Counter(t.key for result in taken for t in result.trajectories)
    samples = Counter((t.key.step, t.key.task_id, t.key.sample) for r in taken for t in r.group.trajectories)
    assert manager.counts.dispatched == len(told) == keys.total()
    assert manager.counts.ends == Counter(t.stop_reason for t in told)
    assert len({(r.trajectories[0].key.step, r.group.task.id) for r in taken}) == len(taken) == steps * BATCH
    twice = sum(count - 1 for count in (*keys.values(), *samples.values()))
    return manager.counts.open + twice + len({t.key for t in told} ^ keys.keys())


async def test_environments_that_crash_beside_the_learner(
    tiny_chat: Chat, ledger: Ledger, is_full: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group, "LONGEST_PAUSE", 0.001)
    monkeypatch.setattr(Crashing, "rng", random.Random(5))
    monkeypatch.setattr(Crashing, "share", 0.15)
    monkeypatch.setattr(Crashing, "crashes", 0)
    wanted, injected, survived, lost = (200 if is_full else 10), 0, 0, 0
    async with nothing_left_behind():
        while injected < wanted:
            manager, taken, told, _ = await train(tiny_chat, Crashing, steps=6, stragglers=0.0, retries=6)
            lost += check(manager, taken, told, 6)
            failed = [t for t in told if t.stop_reason is StopReason.FAILED]
            assert all(t.failure is not None and "the environment crashed" in t.failure.cause for t in failed)
            survived += len(failed)
            injected, before = Crashing.crashes, injected
            assert injected > before
            assert all(len(result.group.trajectories) == SIZE for result in taken)
    ledger.record("environment crashes, asynchronous", injected=injected, survived=survived, lost=lost)


async def test_stragglers_beside_the_learner(tiny_chat: Chat, ledger: Ledger, is_full: bool) -> None:
    wanted, injected, survived, lost = (200 if is_full else 5), 0, 0, 0
    async with nothing_left_behind():
        while injected < wanted:
            manager, taken, told, hung = await train(
                tiny_chat, Desk, steps=6, stragglers=0.08, group_seconds=DEADLINE, min_survivors=2
            )
            lost += check(manager, taken, told, 6)
            cut = [t for t in told if t.stop_reason is StopReason.CANCELLED]
            assert all(t.reward is None for t in cut)
            assert sum(result.cut for result in taken) == len(cut)
            assert any(result.cut and len(result.group.trajectories) >= 2 for result in taken)
            injected, survived = injected + hung, survived + len(cut)
    ledger.record("straggler, asynchronous", injected=injected, survived=survived, lost=lost)


async def test_a_straggler_without_a_deadline_holds_up_only_the_step_that_needs_it(
    tiny_chat: Chat, ledger: Ledger
) -> None:
    """Scaled down: the episode's own deadline ends it."""
    manager, taken, told, hung = await train(tiny_chat, Desk, steps=6, stragglers=0.03, episode_seconds=0.6)
    lost = check(manager, taken, told, 6)
    late = sum(t.stop_reason is StopReason.DEADLINE for t in told)
    ledger.record("straggler without a group's deadline, asynchronous", injected=hung, survived=late, lost=lost)
