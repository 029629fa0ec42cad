"""Servers that break in every way a server can: each episode goes on elsewhere, none is lost, none counted twice."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Any

import pytest

from agentgrpo.chat import Chat
from agentgrpo.config.run import RolloutConfig
from agentgrpo.engines.stub_server import Fault, Reply, StubServer, stub_logprob
from agentgrpo.engines.vllm_remote import RemoteEngine
from agentgrpo.errors import EngineFailure
from agentgrpo.registry import resolve_env
from agentgrpo.rollout import group
from agentgrpo.rollout.group import GroupResult
from agentgrpo.rollout.manager import RolloutManager
from agentgrpo.types import EpisodeKey, JsonObject, Policy, Sampling, Task, Trajectory
from tests.engines.stubs import PATIENT, adapter, canary, pool, settled
from tests.faults.conftest import Ledger
from tests.faults.outside import nothing_left_behind
from tests.rollout.stages import Desk, calls, says

TASKS = [Task(id=f"t{i}", row={"replies": i}) for i in range(3)]
SIZE, TURN_SECONDS = 4, 60.0
ASK = Sampling(max_tokens=0)


def acting(chat: Chat) -> Reply:
    """Return what a server says: a call, then an answer; asked for the rest of it, the rest."""
    called, answered = list(chat.completion(calls("echo", text="a"))), list(chat.completion(says("well")))

    def reply(prompt: Sequence[int], params: JsonObject) -> list[int]:
        whole = answered if "<tool_response>" in chat.decode(prompt) else called
        begun = next((n for n in range(len(whole) - 1, 0, -1) if list(prompt[-n:]) == whole[:n]), 0)
        return whole[begun:]

    return reply


class Rollouts:
    """Rolls out on servers, step after step, and holds what comes against what was promised."""

    def __init__(self, chat: Chat, engine: RemoteEngine) -> None:
        self.chat, self.engine, self.step = chat, engine, 0
        self.seen: list[EpisodeKey] = []

    async def run(self, policy: Policy, weights: str) -> None:
        """Run three groups; fail unless every episode is there once, whole, and said by these weights alone."""
        self.step += 1
        config = RolloutConfig(
            max_turns=3, max_tokens=200, max_turn_tokens=60, retries=3, generate_seconds=TURN_SECONDS
        )
        async with RolloutManager(resolve_env(Desk), self.chat, self.engine, config, seed=self.step) as manager:
            results: list[GroupResult] = await manager.rollout(
                TASKS, policy=policy, phase="train", step=self.step, group_size=SIZE, sampling=ASK
            )
        scored = [t for result in results for t in result.group.trajectories]
        assert len(scored) == len(TASKS) * SIZE and manager.counts.open == 0
        assert manager.counts.dispatched == sum(len(result.trajectories) for result in results)
        for failed in (t for result in results for t in result.failed):
            assert failed.failure is not None and failed.failure.cause
            assert failed.seconds < (len(failed.turns) + 1) * (TURN_SECONDS + 1)
        for trajectory in scored:
            self.seen.append(trajectory.key)
            assert trajectory.reward_terms["heard"] > 0 and trajectory.policy == policy
            assert all(turn.generate_seconds < TURN_SECONDS + 1 for turn in trajectory.turns)
            assert_said_by(weights, trajectory)
        assert len(set(self.seen)) == len(self.seen)
        assert not any(server.sessions for server in self.engine.servers)


def assert_said_by(weights: str, trajectory: Trajectory) -> None:
    """Fail unless each sampled token has the logprob these weights give it after exactly what stood before it."""
    for row in trajectory.sequences():
        for place, is_sampled in enumerate(row.loss_mask):
            if is_sampled:
                expected = stub_logprob(weights, row.token_ids[:place], row.token_ids[place])
                assert abs(row.rollout_logprobs[place] - expected) < 1e-5


def plan(rng: random.Random, servers: list[StubServer], fault: Fault, count: int, within: int) -> None:
    """Let so many of the next generations break, on any server."""
    for server in servers:
        server.faults = {}
    for _ in range(count):
        server = rng.choice(servers)
        server.faults[len(server.generations) + rng.randrange(within)] = fault


async def all_up(engine: RemoteEngine) -> None:
    await settled(lambda: all(server.is_up for server in engine.servers))


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("fault", ["500", "429", "reset", "half_json", "wrong_count", "wrong_id", "slow", "hang"])
async def test_a_generation_may_break_in_any_way(
    tiny_chat: Chat, ledger: Ledger, is_full: bool, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    await inject(tiny_chat, ledger, fault, 200 if is_full else 4, monkeypatch, at_once=4)


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("fault", ["die", "stall"])
async def test_a_server_may_break_in_mid_generation(
    tiny_chat: Chat, ledger: Ledger, is_full: bool, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    await inject(tiny_chat, ledger, fault, 200 if is_full else 2, monkeypatch, at_once=2)


async def inject(
    chat: Chat, ledger: Ledger, fault: Fault, wanted: int, monkeypatch: pytest.MonkeyPatch, *, at_once: int
) -> None:
    """Roll out under faults until so many have fired."""
    monkeypatch.setattr(group, "LONGEST_PAUSE", 0.01)
    rng = random.Random(f"servers {fault}")
    options: dict[str, Any] = {"reply": acting(chat), "fault_seconds": 0.3}
    late = {"connect_seconds": 0.5, "first_token_seconds": 0.4} if fault in ("hang", "slow", "stall") else {}
    now, policy = adapter(1), Policy(version=1)
    async with nothing_left_behind(), pool(3, options=options, retries=50, **late) as (servers, engine):
        await engine.publish(now, policy, canary=canary(now.sha256))
        rollouts = Rollouts(chat, engine)
        while (fired := sum(server.fired for server in servers)) < wanted:
            await all_up(engine)
            plan(rng, servers, fault, min(at_once, wanted - fired), within=4)
            await rollouts.run(policy, now.sha256)
    ledger.record(f"server: {fault}", injected=fired, survived=fired)


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("fault", ["truncated", "not applied"])
async def test_a_broken_delivery_is_caught_and_named(
    tiny_chat: Chat, ledger: Ledger, is_full: bool, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The version is refused, with server, version and by how much; the one before goes on answering."""
    rng, caught = random.Random(fault), 0
    async with nothing_left_behind(), pool(2, options={"reply": acting(tiny_chat)}) as (servers, engine):
        first, policy = adapter(0), Policy()
        await engine.publish(first, policy, canary=canary(first.sha256))
        rollouts = Rollouts(tiny_chat, engine)
        for number in range(1, (200 if is_full else 3) + 1):
            await all_up(engine)
            broken = adapter(number)
            if fault == "truncated":
                truncating(engine, monkeypatch, rng)
            else:
                for server in servers:
                    server.misapplied = {server.loads}
            reason = "could not load policy-v" if fault == "truncated" else "does not answer with policy-v"
            clock = time.monotonic()
            with pytest.raises(EngineFailure, match=f"no server answers with policy-v{number}: .*{reason}") as error:
                await engine.publish(broken, Policy(version=number), canary=canary(broken.sha256))
            assert time.monotonic() - clock < PATIENT["outage_seconds"] / 2  # no server is waited for
            caught += all(server.url.removeprefix("http://") in str(error.value) for server in servers)
            monkeypatch.undo()
            if number % 20 == 1:
                await rollouts.run(policy, first.sha256)
        assert len(list(engine._folders.root.glob("policy-*"))) == 1
    ledger.record(f"adapter {fault}", injected=number, survived=caught)


def truncating(engine: RemoteEngine, monkeypatch: pytest.MonkeyPatch, rng: random.Random) -> None:
    """Let the next adapter's file lose its end after it was written."""
    write = engine._folders.write

    def half(adapter: Any, name: str) -> Any:
        folder = write(adapter, name)
        file = folder / "adapter_model.safetensors"
        content = file.read_bytes()
        file.write_bytes(content[: rng.randrange(len(content))])
        return folder

    monkeypatch.setattr(engine._folders, "write", half)


async def test_one_server_that_does_not_apply_an_adapter_serves_none_of_it(
    tiny_chat: Chat, ledger: Ledger, is_full: bool
) -> None:
    injected = survived = 0
    async with nothing_left_behind(), pool(2, options={"reply": acting(tiny_chat)}) as (servers, engine):
        rollouts = Rollouts(tiny_chat, engine)
        await engine.publish(None, Policy(name="warm-up"))
        for number in range(20 if is_full else 2):
            await all_up(engine)
            now, policy = adapter(number), Policy(version=number)
            await engine.publish(now, policy, canary=canary(now.sha256))
            bad = number % 2
            await all_up(engine)
            now, policy = adapter(number + 1000), Policy(version=number + 1000)
            servers[bad].misapplied = {servers[bad].loads}
            (proof,) = await engine.publish(now, policy, canary=canary(now.sha256))
            injected, survived = injected + 1, survived + (proof.server != servers[bad].url.removeprefix("http://"))
            await rollouts.run(policy, now.sha256)
            await engine.retire(Policy(version=number))
            await engine.retire(policy)
    ledger.record("adapter not applied on one server", injected=injected, survived=survived)


async def test_all_servers_gone_ends_every_episode_with_the_reason(
    tiny_chat: Chat, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group, "LONGEST_PAUSE", 0.01)
    async with pool(2, options={"reply": acting(tiny_chat)}, outage_seconds=0.5) as (servers, engine):
        await engine.publish(None, Policy())
        await all_up(engine)
        await asyncio.gather(*(server.kill() for server in servers))
        config = RolloutConfig(retries=0, max_failed_share=1.0, generate_seconds=TURN_SECONDS)
        async with RolloutManager(resolve_env(Desk), tiny_chat, engine, config, seed=0) as manager:
            results = await manager.rollout(TASKS, policy=Policy(), phase="train", step=1, group_size=2, sampling=ASK)
    failures = [t.failure for result in results for t in result.failed]
    assert len(failures) == len(TASKS) * 2 and manager.counts.open == 0
    assert all(failure is not None and "no server has served for 0.5 s" in failure.cause for failure in failures)
    ledger.record("all servers gone", injected=1, survived=1)
