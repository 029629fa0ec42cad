"""An endpoint that fails in every way it can: each episode ends once, scored, and nothing waits beyond its deadline."""

from __future__ import annotations

import time

import pytest

from agentgrpo.config.run import RolloutConfig
from agentgrpo.endpoint import client
from agentgrpo.endpoint.client import Endpoint
from agentgrpo.endpoint.stub import FAULTS, Fault, StubEndpoint, calls
from agentgrpo.registry import resolve_env
from agentgrpo.rollout.text import TextRollouts
from agentgrpo.types import Policy, Sampling, StopReason, Task, Trajectory
from tests.faults.conftest import Ledger
from tests.rollout.stages import Desk

ATTEMPT_SECONDS, DEADLINE = 1.0, 100.0


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_jitter", lambda state: 0.01)


async def played(stub: StubEndpoint, episodes: int, *, seconds: float = DEADLINE) -> list[Trajectory]:
    """Return every attempt at every episode."""
    config = RolloutConfig(retries=0, generate_seconds=seconds, max_failed_share=1.0)
    ended: list[Trajectory] = []

    async def keep(trajectory: Trajectory) -> None:
        ended.append(trajectory)

    endpoint = Endpoint(stub.url, "m", retries=50, attempt_seconds=ATTEMPT_SECONDS, concurrency=16)
    async with endpoint, TextRollouts(resolve_env(Desk), endpoint, config, seed=0) as rollouts:
        await rollouts.rollout(
            [Task(id=f"t{number}", row={}) for number in range(episodes)],
            policy=Policy(name="m"),
            phase="eval",
            step=0,
            group_size=1,
            sampling=Sampling(max_tokens=1),
            on_episode=keep,
        )
        assert rollouts.counts.open == 0
    return ended


@pytest.mark.parametrize("fault", FAULTS)
async def test_what_may_pass_costs_no_episode(fault: Fault, ledger: Ledger, is_full: bool) -> None:
    injected = 200 if is_full else 6
    faults: list[Fault] = [fault, "none"] * injected
    async with StubEndpoint(lambda body: calls("finish", {}), faults=faults) as stub:
        ended = await played(stub, injected)
        assert len(stub.requests) >= 2 * injected - 1  # so every fault was met
    assert len({t.key for t in ended}) == len(ended) == injected
    lost = sum(t.success is not True for t in ended)
    ledger.record(f"endpoint: {fault}", injected=injected, survived=injected - lost, lost=lost)


async def test_one_that_never_answers_ends_each_episode_at_its_deadline(ledger: Ledger, is_full: bool) -> None:
    injected = 200 if is_full else 6
    clock = time.monotonic()
    async with StubEndpoint(lambda body: calls("finish", {}), faults=["stall"] * 10**5) as stub:
        ended = await played(stub, injected, seconds=0.5)
    rounds = -(-injected // 16)
    assert time.monotonic() - clock < rounds * 0.5 + 30  # an answer takes a minute
    failed = sum(t.stop_reason is StopReason.FAILED and "no answer" in str(t.failure) for t in ended)
    ledger.record("endpoint: silent for good", injected=injected, survived=failed)
