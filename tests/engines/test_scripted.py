from __future__ import annotations

import asyncio

import pytest

from agentgrpo.engines import Engine
from agentgrpo.engines.scripted import ScriptedEngine
from agentgrpo.errors import EngineFailure
from agentgrpo.types import Generation, Policy, Sampling

POLICY = Policy()


async def scripted(*ids: int, context_length: int = 4096) -> ScriptedEngine:
    engine = ScriptedEngine(reply=lambda prompt, sampling: ids, context_length=context_length)
    contract: Engine = engine
    await contract.publish(None, POLICY)
    return engine


async def test_it_answers_as_scripted() -> None:
    engine = await scripted(4, 5, 9)
    got = await engine.generate([1, 2], Sampling(max_tokens=5, stop_token_ids=(9,)), POLICY, session="s")
    assert got == Generation(token_ids=(4, 5, 9), logprobs=(-0.5,) * 3, finish_reason="stop")
    assert engine.calls == [((1, 2), Sampling(max_tokens=5, stop_token_ids=(9,)), POLICY, "s")]


async def test_a_reply_is_cut_to_what_a_real_engine_would_allow() -> None:
    engine = await scripted(4, 5, 9, context_length=4)
    for prompt, max_tokens, expected in (([1], 2, (4, 5)), ([1, 2], 9, (4, 5)), ([1, 2, 3], 9, (4,))):
        got = await engine.generate(prompt, Sampling(max_tokens=max_tokens, stop_token_ids=(9,)), POLICY)
        assert (got.token_ids, got.finish_reason) == (expected, "length")
    with pytest.raises(EngineFailure, match="does not fit"):
        await engine.generate([1, 2, 3, 4], Sampling(max_tokens=1), POLICY)


async def test_policies_are_published_once_and_retired() -> None:
    engine = await scripted(1)
    with pytest.raises(EngineFailure, match="published before"):
        await engine.publish(None, POLICY)
    await engine.retire(POLICY)
    await engine.retire(POLICY)
    with pytest.raises(EngineFailure, match="not published"):
        await engine.generate([1], Sampling(max_tokens=1), POLICY)
    await engine.close()


async def test_faults_come_at_the_call_they_are_for() -> None:
    engine = await scripted(1)
    engine.faults[1] = EngineFailure("down")
    outcomes = [
        await asyncio.gather(engine.generate([1], Sampling(max_tokens=1), POLICY), return_exceptions=True)
        for _ in range(3)
    ]
    assert [type(outcome) for (outcome,) in outcomes] == [Generation, EngineFailure, Generation]


async def test_cancellations_and_releases_are_noted() -> None:
    engine = await scripted(1)
    engine.latency = lambda call: 60.0
    task = asyncio.create_task(engine.generate([1], Sampling(max_tokens=1), POLICY))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await engine.release("s")
    assert (engine.cancelled, engine.released) == (1, ["s"])
