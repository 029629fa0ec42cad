from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from agentgrpo.engines.embedded import EmbeddedEngine
from agentgrpo.errors import EngineFailure
from agentgrpo.types import Generation, Policy, Sampling
from tests.engines.models import greedy, logprobs_of, merged, random_adapter
from tests.engines.stubs import settled

PROMPT = list(range(20, 45))
POLICY = Policy()


@pytest.fixture
async def engine(model: PreTrainedModel) -> AsyncIterator[EmbeddedEngine]:
    made = EmbeddedEngine(model, max_sequences=4, context_length=512)
    await made.publish(None, POLICY)
    yield made
    await made.close()


async def wait_for_thread(engine: EmbeddedEngine) -> None:
    """Everything sent before this has been done when it returns."""
    await engine.retire(Policy(name="nobody"))


async def test_it_says_what_the_model_says(model: PreTrainedModel, engine: EmbeddedEngine) -> None:
    got = await engine.generate(PROMPT, Sampling(max_tokens=12, temperature=0), POLICY)
    assert list(got.token_ids) == greedy(model, PROMPT, 12)
    assert got.logprobs == pytest.approx(logprobs_of(model, PROMPT, got.token_ids), abs=1e-4)


async def test_many_callers_at_once_get_what_each_gets_alone(engine: EmbeddedEngine) -> None:
    async def one(number: int, prompt: list[int], sampling: Sampling) -> Generation:
        got = await engine.generate(prompt, sampling, POLICY, session=f"s{number}")
        await engine.release(f"s{number}")
        return got

    jobs = [(PROMPT[: 5 + i], Sampling(max_tokens=3 + i % 5, seed=i)) for i in range(20)]
    together = await asyncio.gather(*(one(i, prompt, sampling) for i, (prompt, sampling) in enumerate(jobs)))
    for (prompt, sampling), got in zip(jobs, together, strict=True):
        assert await engine.generate(prompt, sampling, POLICY) == got


async def test_publishing_while_others_generate_changes_nothing_for_them(
    model: PreTrainedModel, engine: EmbeddedEngine
) -> None:
    sampling, adapter = Sampling(max_tokens=100, temperature=0), random_adapter(model, 1)
    before = asyncio.create_task(engine.generate(PROMPT, sampling, POLICY))
    await settled(lambda: engine._decode.has_work)
    await engine.publish(adapter, Policy(version=1))
    after = await engine.generate(PROMPT, Sampling(max_tokens=12, temperature=0), Policy(version=1))
    assert list((await before).token_ids) == greedy(model, PROMPT, 100)
    assert list(after.token_ids) == greedy(merged(model, adapter), PROMPT, 12)


async def test_the_learners_model_is_never_touched(model: PreTrainedModel, engine: EmbeddedEngine) -> None:
    modules, implementation = [type(m) for m in model.modules()], model.config._attn_implementation
    await engine.publish(random_adapter(model, 1), Policy(version=1))
    assert [type(m) for m in model.modules()] == modules
    assert model.config._attn_implementation == implementation
    theirs = {p.data_ptr() for p in engine._decode.versions._model.parameters()}
    assert theirs == {p.data_ptr() for p in model.parameters()}  # the weights are there once


async def test_a_policy_is_published_once_and_can_be_retired(engine: EmbeddedEngine) -> None:
    with pytest.raises(EngineFailure, match="published before"):
        await engine.publish(None, POLICY)
    with pytest.raises(EngineFailure, match="policy-v1 is not published"):
        await engine.generate(PROMPT, Sampling(max_tokens=1), Policy(version=1))
    await engine.retire(POLICY)
    with pytest.raises(EngineFailure, match="policy-v0 is not published"):
        await engine.generate(PROMPT, Sampling(max_tokens=1), POLICY)


async def test_a_prompt_too_long_is_refused(engine: EmbeddedEngine) -> None:
    with pytest.raises(EngineFailure, match="512"):
        await engine.generate([1] * 512, Sampling(max_tokens=1), POLICY)


async def test_the_context_is_at_most_the_models(model: PreTrainedModel) -> None:
    for asked, expected in ((None, 1024), (100, 100), (10**6, 1024)):
        engine = EmbeddedEngine(model, context_length=asked)
        assert engine.context_length == expected
        await engine.close()


async def test_a_cancelled_call_frees_its_slot(engine: EmbeddedEngine) -> None:
    tasks = [asyncio.create_task(engine.generate(PROMPT, Sampling(max_tokens=480), POLICY)) for _ in range(6)]
    await settled(lambda: engine._decode.has_work)
    for task in tasks:
        task.cancel()
    assert all(isinstance(r, asyncio.CancelledError) for r in await asyncio.gather(*tasks, return_exceptions=True))
    await wait_for_thread(engine)
    assert not engine._decode.has_work
    assert not engine._decode._seats.requests()
    assert len((await engine.generate(PROMPT, Sampling(max_tokens=2), POLICY)).token_ids) == 2


async def test_sessions_beyond_the_slots_wait_for_a_release(engine: EmbeddedEngine) -> None:
    for number in range(engine.max_sequences):
        await engine.generate(PROMPT, Sampling(max_tokens=2), POLICY, session=str(number))
    late = asyncio.create_task(engine.generate(PROMPT, Sampling(max_tokens=2), POLICY, session="late"))
    await wait_for_thread(engine)
    assert not late.done()
    await engine.release("0")
    assert len((await late).token_ids) == 2


async def test_a_pass_that_raises_fails_its_requests_and_the_engine_lives_on(
    engine: EmbeddedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaking(*args: Any) -> torch.Tensor:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(engine._decode, "_pass", breaking)
        calls = [engine.generate(PROMPT, Sampling(max_tokens=3), POLICY, session=str(i)) for i in range(6)]
        results = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 60)
    assert all(isinstance(r, EngineFailure) and "out of memory" in str(r) for r in results)
    assert len((await engine.generate(PROMPT, Sampling(max_tokens=3), POLICY, session="0")).token_ids) == 3


async def test_closing_ends_what_is_open(model: PreTrainedModel) -> None:
    engine = EmbeddedEngine(model, max_sequences=2)
    await engine.publish(None, POLICY)
    tasks = [asyncio.create_task(engine.generate(PROMPT, Sampling(max_tokens=900), POLICY)) for _ in range(5)]
    await settled(lambda: engine._decode.has_work)
    await engine.close()
    results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 60)
    assert all(isinstance(r, EngineFailure) and "closed" in str(r) for r in results)


async def test_a_closed_engine_says_so_and_hangs_nobody(model: PreTrainedModel) -> None:
    engine = EmbeddedEngine(model)
    await engine.publish(None, POLICY)
    closing = asyncio.create_task(engine.close())
    await asyncio.sleep(0)  # closing has begun, the thread may still be alive
    with pytest.raises(EngineFailure, match="the engine is closed"):
        await asyncio.wait_for(engine.generate(PROMPT, Sampling(max_tokens=1), POLICY), 60)
    await engine.release("s")  # an episode that ends now must not fail for it
    await closing
    await engine.close()
    await engine.release("s")
    with pytest.raises(EngineFailure, match="the engine is closed"):
        await engine.publish(None, Policy(version=1))


async def test_cancelling_after_closing_is_still_a_cancellation(model: PreTrainedModel) -> None:
    engine = EmbeddedEngine(model)
    await engine.publish(None, POLICY)
    task = asyncio.create_task(engine.generate(PROMPT, Sampling(max_tokens=900), POLICY))
    await settled(lambda: engine._decode.has_work)
    closing = asyncio.create_task(engine.close())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await closing
