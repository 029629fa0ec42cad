from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest
from transformers import PreTrainedModel

from agentgrpo.chat import Chat
from agentgrpo.config.run import RolloutConfig
from agentgrpo.engines import Engine
from agentgrpo.engines.embedded import EmbeddedEngine
from agentgrpo.engines.scripted import ScriptedEngine
from agentgrpo.errors import EngineFailure, RunError
from agentgrpo.registry import resolve_env
from agentgrpo.rollout import isolation
from agentgrpo.rollout.group import GroupResult
from agentgrpo.rollout.manager import Counts, RolloutManager
from agentgrpo.types import EpisodeKey, Sampling, StopReason, Task, Trajectory
from tests.clock import leap
from tests.engines.stubs import settled
from tests.rollout.stages import POLICY, Desk, acting, babbling, calls

TASKS = [Task(id=f"t{i}", row={"replies": i % 3}) for i in range(5)]


def manager(chat: Chat, engine: Engine, *, env: Any = Desk, seed: int = 0, **config: Any) -> RolloutManager:
    settings = {"max_turns": 4, "max_tokens": 200, "max_turn_tokens": 60, **config}
    return RolloutManager(resolve_env(env), chat, engine, RolloutConfig(**settings), seed=seed)


async def roll(
    made: RolloutManager, tasks: Sequence[Task] = TASKS, *, step: int = 0, size: int = 3, **options: Any
) -> list[GroupResult]:
    async with made:
        return await made.rollout(
            tasks,
            policy=POLICY,
            phase="train",
            step=step,
            group_size=size,
            sampling=Sampling(max_tokens=0, temperature=1.0),
            **options,
        )


async def test_groups_come_in_the_order_of_their_tasks_and_episodes_are_told_when_they_end(tiny_chat: Chat) -> None:
    engine = babbling(tiny_chat, 1)
    rng = random.Random(0)
    engine.latency = lambda call: rng.random() * 0.01
    told: list[EpisodeKey] = []

    async def on_episode(trajectory: Trajectory) -> None:
        told.append(trajectory.key)

    made = manager(tiny_chat, engine)
    results = await roll(made, on_episode=on_episode)
    assert [r.group.task for r in results] == TASKS
    assert sorted(told, key=str) == [t.key for r in results for t in r.trajectories] != told
    assert made.counts.dispatched == 15
    assert made.counts.ends == Counter(t.stop_reason for r in results for t in r.trajectories)


async def test_what_had_ended_is_not_run_again_attempts_in_order(tiny_chat: Chat) -> None:
    plan: dict[int, Exception] = {i: EngineFailure("flaky") for i in (0, 3, 4, 11)}
    whole = [t for r in await roll(manager(tiny_chat, acting(tiny_chat, faults=plan))) for t in r.trajectories]
    finished = {t.key: t for t in whole if t.key.sample != 1}
    told: list[EpisodeKey] = []

    async def on_episode(trajectory: Trajectory) -> None:
        told.append(trajectory.key)

    made = manager(tiny_chat, acting(tiny_chat))
    results = await roll(made, finished=finished, on_episode=on_episode)
    again = {t.key: t for r in results for t in r.trajectories}
    assert all(again[key] is trajectory for key, trajectory in finished.items())
    assert set(told) == set(again)
    assert made.counts.ends == Counter(t.stop_reason for t in again.values())


async def test_failed_attempts_start_anew_and_every_end_is_counted(tiny_chat: Chat) -> None:
    engine = acting(tiny_chat, faults={i: EngineFailure("flaky") for i in (0, 3, 4, 11)})
    made = manager(tiny_chat, engine, retries=2)
    results = await roll(made)
    failed = [t for r in results for t in r.failed]
    assert len(failed) == 4
    assert made.counts.ends[StopReason.FAILED] == 4
    assert made.counts.dispatched == 19
    assert made.counts.open == 0
    for result in results:
        assert [t.key.sample for t in result.group.trajectories] == [0, 1, 2]
        # A group is one start state, whatever had to be tried again.
        assert len({(t.seed, t.spans[0].token_ids) for t in result.trajectories}) == 1
    sessions = [session for _, _, _, session in engine.calls]
    assert sorted(set(sessions)) == sorted(engine.released)


async def test_an_environment_that_always_breaks_costs_its_group_only(tiny_chat: Chat) -> None:
    tasks = [Task(id="bad", row={"broken": "reset"}), Task(id="good", row={})]
    made = manager(tiny_chat, acting(tiny_chat), retries=1)
    bad, good = await roll(made, tasks, size=2)
    assert (len(bad.group.trajectories), len(bad.failed)) == (0, 4)
    assert (len(good.group.trajectories), len(good.failed)) == (2, 0)
    assert made.counts.dispatched == 6


@pytest.mark.parametrize(("concurrency", "slots"), [(2, 1024), (64, 3)])
async def test_at_most_so_many_episodes_run_at_once(tiny_chat: Chat, concurrency: int, slots: int) -> None:
    running = most = 0
    inner, is_full, allowed = acting(tiny_chat, latency=lambda call: 0.002), asyncio.Event(), min(concurrency, slots)

    class Counting(ScriptedEngine):
        async def generate(self, *args: Any, **kwargs: Any) -> Any:
            nonlocal running, most
            running += 1
            most = max(most, running)
            if most >= allowed:
                is_full.set()
            try:
                await is_full.wait()
                return await inner.generate(*args, **kwargs)
            finally:
                running -= 1

    engine = Counting(reply=inner.reply, max_sequences=slots)
    await roll(manager(tiny_chat, engine, concurrency=concurrency))
    assert most == allowed


async def test_cancelling_a_rollout_counts_what_was_under_way(tiny_chat: Chat) -> None:
    engine = acting(tiny_chat, latency=lambda call: 60.0)
    made = manager(tiny_chat, engine, concurrency=4)
    job = asyncio.create_task(roll(made))
    await settled(lambda: engine.running == 4)
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job
    assert made.counts.dispatched == made.counts.ends[StopReason.CANCELLED] == 4
    made.counts.check()
    assert engine.cancelled == 4


async def test_seeds_depend_on_what_identifies_an_episode(tiny_chat: Chat) -> None:
    async def seeds(seed: int, step: int) -> tuple[set[int], dict[str, int]]:
        engine = acting(tiny_chat)
        results = await roll(manager(tiny_chat, engine, seed=seed), step=step)
        states = {r.group.task.id: r.group.trajectories[0].seed for r in results}
        return {sampling.seed for _, sampling, _, _ in engine.calls}, states

    first, states = await seeds(0, 0)
    again, _ = await seeds(0, 0)
    later, later_states = await seeds(0, 1)
    other, other_states = await seeds(1, 0)
    assert first == again
    assert not first & later
    assert not first & other
    assert states == later_states != other_states


async def test_the_same_seed_is_the_same_rollout_at_any_concurrency(model: PreTrainedModel, tiny_chat: Chat) -> None:
    spans = []
    for concurrency, slots in ((1, 4), (64, 64)):
        engine = EmbeddedEngine(model, max_sequences=slots)
        await engine.publish(None, POLICY)
        made = manager(tiny_chat, engine, env="lockbox", concurrency=concurrency)
        results = await roll(made, [Task(id=f"train-{i}", row={"seed": i}) for i in range(3)])
        await engine.close()
        spans.append([[s.token_ids for s in t.spans] for r in results for t in r.group.trajectories])
    assert spans[0] == spans[1]


async def test_a_manager_that_was_not_entered_says_how_to(tiny_chat: Chat) -> None:
    made = manager(tiny_chat, acting(tiny_chat))
    with pytest.raises(ExceptionGroup) as caught:
        await made.rollout(
            TASKS[:1], policy=POLICY, phase="eval", step=0, group_size=1, sampling=Sampling(max_tokens=0)
        )
    inner: BaseException = caught.value
    while isinstance(inner, BaseExceptionGroup):
        inner = inner.exceptions[0]
    assert isinstance(inner, RunError)
    assert "async with manager" in str(inner)


def test_counts_that_do_not_add_up_are_a_bug() -> None:
    counts = Counts(dispatched=2, ends=Counter({StopReason.DONE: 1}))
    with pytest.raises(RunError, match="2 episodes were dispatched"):
        counts.check()


async def test_turns_of_one_episode_share_a_session(tiny_chat: Chat) -> None:
    engine = acting(tiny_chat, calls("echo"), calls("echo"))
    await roll(manager(tiny_chat, engine), TASKS[:1], size=1)
    assert len({session for _, _, _, session in engine.calls}) == 1
    assert len(engine.calls) == 3


async def test_a_group_that_is_late_trains_with_its_survivors_and_every_end_is_counted(tiny_chat: Chat) -> None:
    """Two places: at the deadline one episode hangs in the engine, and the last has not begun."""

    def latency(call: int) -> float:
        if call == 1:
            leap(100)
        return 1000.0 * call

    engine = acting(tiny_chat, latency=latency)
    made = manager(tiny_chat, engine, concurrency=1, group_seconds=100)
    told: list[Trajectory] = []

    async def on_episode(trajectory: Trajectory) -> None:
        told.append(trajectory)

    (result,) = await roll(made, TASKS[:1], on_episode=on_episode)
    assert [t.key.sample for t in result.group.trajectories] == [0]
    assert [(t.key.sample, t.stop_reason) for t in result.failed] == [(1, "cancelled"), (2, "cancelled")]
    assert [len(t.spans) > 0 for t in result.failed] == [True, False]
    assert engine.cancelled == 1
    assert len(told) == made.counts.dispatched == 3
    assert made.counts.ends[StopReason.CANCELLED] == 2
    made.counts.check()
    assert made.admission.inside == made.counts.open == 0


class SlowToClose(Desk):
    """Takes longer to be cleared up than its group has."""

    metadata = {"isolation": "thread"}  # noqa: RUF012
    begins: ClassVar[threading.Barrier]
    is_over: ClassVar[threading.Event]

    def close(self) -> None:
        if hasattr(self, "heard"):  # else it was only looked at
            self.begins.wait(60)
            self.is_over.wait(60)


async def test_an_episode_that_was_scored_stays_so_when_the_deadline_strikes_while_it_is_cleared_up(
    tiny_chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()

    def strike() -> None:
        loop.call_soon_threadsafe(leap, 100)

    SlowToClose.begins = threading.Barrier(2, strike)
    SlowToClose.is_over = threading.Event()
    monkeypatch.setattr(isolation, "CLOSE_SECONDS", 200.0)
    made = manager(tiny_chat, acting(tiny_chat), env=SlowToClose, group_seconds=100, tool_seconds=200)
    (result,) = await roll(made, TASKS[:1], size=2)
    SlowToClose.is_over.set()
    assert [t.stop_reason for t in result.trajectories] == [StopReason.ANSWERED] * 2
    assert made.counts.ends == Counter({StopReason.ANSWERED: 2})


async def test_an_evaluation_has_no_group_deadline(tiny_chat: Chat) -> None:
    made = manager(tiny_chat, acting(tiny_chat, latency=lambda call: 0.1), group_seconds=0.01)
    async with made:
        (result,) = await made.rollout(
            TASKS[:1], policy=POLICY, phase="eval", step=0, group_size=2, sampling=Sampling(max_tokens=0)
        )
    assert result.cut == 0
