"""A pool of servers that behave, and single ones that do not: what the engine promises on each."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import replace

import pytest
from transformers import PreTrainedModel

from agentgrpo.config.engine import ServersConfig
from agentgrpo.config.run import load_config
from agentgrpo.engines.partial import Partial
from agentgrpo.engines.servers import Server
from agentgrpo.engines.stub_server import BASE, StubServer, stub_logprobs
from agentgrpo.engines.vllm_api import BadAnswer, Card, Chunk, Late, VllmApi
from agentgrpo.engines.vllm_remote import RemoteEngine, survey
from agentgrpo.errors import ConfigError, EngineFailure
from agentgrpo.rollout.admission import CountsPreemptions
from agentgrpo.run.engine_kinds import open_engine
from agentgrpo.tolerances import LOGPROB_TOLERANCE
from agentgrpo.types import Generation, Policy, Sampling
from tests.engines.stubs import CANARY_IDS, PATIENT, adapter, canary, engine_on, pool, settled

PROMPT = (7, 8, 9)
ASK = Sampling(max_tokens=20, seed=5)
V0, V1, V2 = Policy(), Policy(version=1), Policy(version=2)


def is_said_by(weights: str, prompt: Sequence[int], generation: Generation) -> bool:
    """Return whether every logprob is what these weights give the token after exactly what stood before it."""
    said = [*prompt, *generation.token_ids]
    expected = stub_logprobs(weights, said)[len(prompt) - 1 :]
    pairs = zip(expected, generation.logprobs, strict=True)
    return all(abs(expected_one - told) < 1e-5 for expected_one, told in pairs)


async def test_tokens_come_with_their_logprobs_and_repeat() -> None:
    async with pool(2) as (servers, engine):
        assert await engine.publish(None, V0) == ()
        first = await engine.generate(PROMPT, ASK, V0)
        assert first == await engine.generate(PROMPT, ASK, V0)
        assert len(first.token_ids) == 20 and first.finish_reason == "length"
        assert is_said_by(BASE, PROMPT, first)
        stopped = await engine.generate(PROMPT, replace(ASK, stop_token_ids=first.token_ids[4:5]), V0)
        assert (stopped.token_ids, stopped.finish_reason) == (first.token_ids[:5], "stop")
        assert sum(len(server.generations) for server in servers) == 3


@pytest.mark.parametrize(
    ("chunks", "reason"),
    [
        ([Chunk((1, 9, 2), (-1.0,) * 3, None)], "went on after 2 tokens"),
        ([Chunk((1, 9), (-1.0,) * 2, "stop"), Chunk((2,), (-1.0,), None)], "went on after 2 tokens"),
        ([Chunk((1, 2, 3, 4, 5), (-1.0,) * 5, None)], "went on after 4 tokens"),
        ([Chunk((1,), (-1.0,), "length")], "ended with 'length' after 1 of 4 tokens and no stop token"),
        ([Chunk((1,), (-1.0,), "abort")], "ended with 'abort'"),
    ],
)
def test_an_answer_that_cannot_be_is_refused(chunks: list[Chunk], reason: str) -> None:
    part = Partial((5,), Sampling(max_tokens=4, stop_token_ids=(9,)))
    with pytest.raises(BadAnswer, match=reason):
        for chunk in chunks:
            part.take(chunk)
    part.drop(0)
    assert part.rest() == ((5,), part.sampling)


async def test_the_context_bounds_prompt_and_completion() -> None:
    async with pool(1) as (_, engine):
        await engine.publish(None, V0)
        assert len((await engine.generate([5] * 1020, ASK, V0)).token_ids) == 4
        with pytest.raises(EngineFailure, match="1024 does not fit"):
            await engine.generate([5] * 1024, ASK, V0)
        with pytest.raises(EngineFailure, match="policy-v1 is not published; live: policy-v0"):
            await engine.generate(PROMPT, ASK, V1)


async def test_every_server_proves_a_version_and_two_live_side_by_side() -> None:
    async with pool(2) as (servers, engine):
        first, second = adapter(1), adapter(2)
        await engine.publish(None, V0, canary=canary())
        assert all(server.is_up for server in engine.servers)
        proofs = await engine.publish(first, V1, canary=canary(first.sha256))
        assert [(proof.policy, proof.verdict) for proof in proofs] == [(V1, "proved")] * 2
        assert {proof.server for proof in proofs} == {server.url.removeprefix("http://") for server in servers}
        assert all(proof.difference < 1e-5 and (proof.previous or 0) > 1e-2 for proof in proofs)
        await engine.publish(second, V2, canary=canary(second.sha256))
        one, two = await asyncio.gather(engine.generate(PROMPT, ASK, V1), engine.generate(PROMPT, ASK, V2))
        assert is_said_by(first.sha256, PROMPT, one) and is_said_by(second.sha256, PROMPT, two)


async def test_versions_leave_nothing_behind() -> None:
    async with pool(2) as (servers, engine):
        names: set[str] = set()
        for version in range(30):
            now = adapter(version)
            await engine.publish(now, Policy(version=version), canary=canary(now.sha256))
            names |= set(servers[0].adapters)
            if version:
                await engine.retire(Policy(version=version - 1))
            assert len(servers[0].adapters) == 1 and len(list(engine._folders.root.glob("policy-*"))) == 1
        assert len(names) == 30  # no name was used twice
        with pytest.raises(EngineFailure, match="published before"):
            await engine.publish(adapter(0), Policy(version=29))
        root = engine._folders.root
    assert not root.exists() and not servers[0].adapters


async def test_a_session_sticks_to_a_server_and_new_ones_go_where_least_is() -> None:
    async with pool(3) as (servers, engine):
        await engine.publish(None, V0)
        await settled(lambda: all(server.is_up for server in engine.servers))
        for _ in range(4):
            await asyncio.gather(*(engine.generate(PROMPT, ASK, V0, session=f"e{i}") for i in range(6)))
        assert [len(server.generations) for server in servers] == [8, 8, 8]
        assert [len(server.sessions) for server in engine.servers] == [2, 2, 2]
        for i in range(6):
            await engine.release(f"e{i}")
        assert [len(server.sessions) for server in engine.servers] == [0, 0, 0]


async def test_a_server_that_keeps_old_weights_is_taken_out_and_named(caplog: pytest.LogCaptureFixture) -> None:
    async with pool(2) as (servers, engine):
        await engine.publish(None, V0, canary=canary())
        await settled(lambda: all(server.is_up for server in engine.servers))
        servers[1].misapplied = set(range(99))
        now = adapter(1)
        (proof,) = await engine.publish(now, V1, canary=canary(now.sha256))
        bad = servers[1].url.removeprefix("http://")
        assert proof.server != bad and not engine.servers[1].is_up
        said = next(r.getMessage() for r in caplog.records if "does not answer with policy-v1" in r.getMessage())
        assert bad in said and "at most 0.0001" in said and "the version before: it answers with that one" in said
        for _ in range(6):
            assert is_said_by(now.sha256, PROMPT, await engine.generate(PROMPT, ASK, V1))
        assert not servers[1].generations
        servers[1].misapplied = set()  # mended: it is taken in again, with a proof
        await settled(lambda: engine.servers[1].is_up)
        assert servers[1].adapters[engine.servers[1].names[V1]] == now.sha256


async def test_a_version_that_no_server_proves_is_never_used() -> None:
    async with pool(2) as (servers, engine):
        await engine.publish(None, V0, canary=canary())
        await settled(lambda: all(server.is_up for server in engine.servers))
        for server in servers:
            server.misapplied = set(range(99))
        clock = time.monotonic()
        with pytest.raises(EngineFailure, match=r"no server answers with policy-v1: .* does not answer") as caught:
            await engine.publish(adapter(1), V1, canary=canary(adapter(1).sha256))
        assert all(server.url.removeprefix("http://") in str(caught.value) for server in servers)
        assert time.monotonic() - clock < PATIENT["outage_seconds"] / 2  # none is waited for
        with pytest.raises(EngineFailure, match="policy-v1 is not published"):
            await engine.generate(PROMPT, ASK, V1)
        assert is_said_by(BASE, PROMPT, await engine.generate(PROMPT, ASK, V0))  # the one before goes on


async def test_a_restarted_server_loads_and_proves_again_before_it_serves() -> None:
    async with pool(1, options={"fault_seconds": 0.2}) as ((server,), engine):
        now = adapter(1)
        await engine.publish(now, V1, canary=canary(now.sha256))
        server.faults = {1: "die"}
        assert is_said_by(now.sha256, PROMPT, await engine.generate(PROMPT, ASK, V1))
        assert not server.restarts
        told = await engine.generate(PROMPT, ASK, V1)
        assert server.restarts == 1 and is_said_by(now.sha256, PROMPT, told) and len(told.token_ids) == 20
        assert server.adapters == {engine.servers[0].names[V1]: now.sha256}


async def test_what_had_come_is_kept_token_for_token() -> None:
    async with pool(2) as (servers, engine):
        await engine.publish(None, V0)
        await settled(lambda: all(server.is_up for server in engine.servers))
        whole = await engine.generate(PROMPT, ASK, V0, session="calm")
        broken = engine.servers.index(min(engine.servers, key=lambda s: s.load))
        servers[broken].faults = {len(servers[broken].generations): "reset"}
        told = await engine.generate(PROMPT, ASK, V0, session="e")
        assert told.token_ids[:4] == whole.token_ids[:4] and len(told.token_ids) == 20
        assert is_said_by(BASE, PROMPT, told)
        (resumed,) = [g for s in servers for g in s.generations if len(g["token_ids"]) > len(PROMPT)]
        assert resumed["token_ids"] == [*PROMPT, *whole.token_ids[:4]]
        assert resumed["sampling_params"]["max_tokens"] == 16 and resumed["sampling_params"]["seed"] != ASK.seed


async def test_a_stall_is_seen_although_health_says_ok(caplog: pytest.LogCaptureFixture) -> None:
    late = {"connect_seconds": 2.5, "first_token_seconds": 2.5, "retries": 50}
    async with pool(2, options={"token_seconds": 0.01}, **late) as (servers, engine):
        await engine.publish(None, V0)
        await settled(lambda: all(server.is_up for server in engine.servers))
        for server in servers:
            server.chunk = 1
        asked = [asyncio.create_task(engine.generate(PROMPT, ASK, V0, session=str(i))) for i in range(8)]
        await settled(lambda: sum(server.open for server in servers) == 8)
        servers[0].stall()
        clock = time.monotonic()  # what follows ends although nothing ends the stall
        for told in await asyncio.gather(*asked):
            assert is_said_by(BASE, PROMPT, told) and len(told.token_ids) == 20
        assert time.monotonic() - clock < PATIENT["outage_seconds"] / 2
        assert not engine.servers[0].is_up and "it has stalled: no token for 2.5 s" in caplog.text
        servers[0].recover()
        await settled(lambda: engine.servers[0].is_up)


async def test_a_stalled_server_is_asked_for_a_proof_once() -> None:
    async with pool(1, connect_seconds=0.5, first_token_seconds=0.5) as ((stub,), engine):
        await engine.publish(None, V0, canary=canary())
        (server,) = engine.servers
        stub.stall()
        with pytest.raises(Late):
            await server._score("stub", CANARY_IDS)
        assert not server.is_up and "it has stalled" in (server.reason or "")


async def test_a_slow_server_is_no_stalled_one() -> None:
    async with pool(1, options={"fault_seconds": 4.0}, first_token_seconds=3.0) as ((server,), engine):
        await engine.publish(None, V0)
        server.faults = {0: "slow"}
        assert is_said_by(BASE, PROMPT, await engine.generate(PROMPT, ASK, V0))
        assert len(server.generations) == 1 and engine.servers[0].is_up  # it was waited for


async def test_a_version_waits_for_a_place_where_all_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    score, scored = VllmApi.score, list[str]()

    async def counted(api: VllmApi, model: str, token_ids: Sequence[int]) -> list[float]:
        scored.append(model)
        return await score(api, model, token_ids)

    options, long = {"places": 2, "token_seconds": 0.05, "chunk": 1}, replace(ASK, max_tokens=900)
    async with pool(1, options=options, first_token_seconds=3.0) as ((server,), engine):
        await engine.publish(None, V0, canary=canary())
        asked = [asyncio.create_task(engine.generate(PROMPT, replace(long, seed=i), V0)) for i in range(2)]
        await settled(lambda: len(server.generations) == 2)
        monkeypatch.setattr(VllmApi, "score", counted)
        publishing = asyncio.create_task(engine.publish(adapter(1), V1, canary=canary(adapter(1).sha256)))
        await settled(lambda: len(scored) == 2)  # it was late once, and is asked for again
        assert not any(one.done() for one in asked) and not publishing.done()
        server.token_seconds = 0.0
        (proof,) = await publishing
        assert proof.verdict == "proved"
        assert all(is_said_by(BASE, PROMPT, one) for one in await asyncio.gather(*asked))
        assert engine.servers[0].outages == 0 and len(server.generations) == 2  # nothing was begun again


async def test_without_any_server_there_is_a_reason_not_a_wait() -> None:
    async with pool(2, outage_seconds=0.5) as (servers, engine):
        await engine.publish(None, V0)
        for server in servers:
            await server.kill()
        with pytest.raises(EngineFailure, match=r"no server has served for 0.5 s: .*connection failed.*; .*"):
            await engine.generate(PROMPT, ASK, V0)
        with pytest.raises(EngineFailure, match=r"no server has served for 0\.5 s"):
            await engine.publish(adapter(1), V1)


async def test_a_server_that_serves_without_a_version_says_so() -> None:
    async with pool(1, outage_seconds=0.3) as ((_,), engine):
        await engine.publish(adapter(1), V1)
        del engine.servers[0].names[V1]
        with pytest.raises(EngineFailure, match=r"127\.0\.0\.1:\d+: it serves, but has not proved policy-v1"):
            await engine.generate(PROMPT, ASK, V1)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"logprobs_mode": "raw_logprobs"}, "--logprobs-mode processed_logprobs"),
        ({"context_length": 512}, "its context is 512 tokens, the pool's 1024"),
        ({"api_key": "secret"}, "api_key_env"),
    ],
)
async def test_a_server_that_does_not_fit_says_what_to_do(options: dict[str, object], reason: str) -> None:
    async with pool(1, options=options, outage_seconds=0.4) as (_, engine):
        with pytest.raises(EngineFailure, match=reason):
            await engine.publish(None, V0)


async def test_the_key_opens_the_server() -> None:
    async with StubServer(api_key="k") as server:
        config = ServersConfig(urls=[server.url], **PATIENT)
        tolerance = LOGPROB_TOLERANCE["float32"]
        engine = RemoteEngine(config, context_length=64, max_sequences=1, tolerance=tolerance, api_key="k")
        await engine.publish(None, V0)
        assert (await engine.generate(PROMPT, ASK, V0)).token_ids
        await engine.close()


async def test_preemptions_are_counted_over_restarts() -> None:
    async with pool(1, options={"preemptions": 40, "fault_seconds": 0.2}) as ((server,), engine):
        await engine.publish(None, V0)
        server.preemptions += 2
        await settled(lambda: engine.preemptions == 2)
        server.preemptions = 0  # as after a restart
        await settled(lambda: engine.servers[0]._counted == 0)
        server.preemptions = 3
        await settled(lambda: engine.preemptions == 5)
        assert isinstance(engine, CountsPreemptions)


async def test_a_session_may_be_named_as_no_header_may() -> None:
    async with pool(1) as (_, engine):
        await engine.publish(None, V0)
        assert (await engine.generate(PROMPT, ASK, V0, session="train/1/über\r\nX: y/0")).token_ids


async def test_a_cancelled_generation_is_aborted_on_the_server() -> None:
    async with pool(1, options={"token_seconds": 60.0}) as ((server,), engine):
        await engine.publish(None, V0)
        asked = asyncio.create_task(engine.generate(PROMPT, ASK, V0))
        await settled(lambda: server.open == 1)
        asked.cancel()
        await settled(lambda: server.open == 0)
        with pytest.raises(asyncio.CancelledError):
            await asked


async def test_closing_ends_what_is_open_and_may_be_repeated(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    async with StubServer(token_seconds=60.0) as server:
        engine = engine_on(server)
        await engine.publish(None, V0)
        asked = asyncio.create_task(engine.generate(PROMPT, ASK, V0))
        await settled(lambda: server.open == 1)
        await engine.close()
        await engine.close()
        with pytest.raises(EngineFailure, match="closed"):
            await asked
        with pytest.raises(EngineFailure, match="closed"):
            await engine.generate(PROMPT, ASK, V0)
    assert not caplog.records


async def test_an_engine_whose_watch_broke_closes_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(server: Server) -> None:
        raise RuntimeError("a bug")

    async with StubServer() as server:
        engine = engine_on(server)
        await engine.publish(adapter(1), V1)
        monkeypatch.setattr(Server, "check", fail)
        engine.servers[0].suspect.set()
        await settled(lambda: engine._keeper is not None and engine._keeper.done())
        with pytest.raises(ExceptionGroup):
            await engine.close()
        assert not engine._folders.root.exists()
        await engine.close()
        with pytest.raises(EngineFailure, match="the engine is closed"):
            await engine.generate(PROMPT, ASK, V1)


def test_one_event_loop_after_the_other() -> None:
    async def serve(engine: RemoteEngine | None) -> tuple[RemoteEngine, int]:
        async with StubServer(port=port) as server:
            engine = engine or engine_on(server)
            if port == 0:
                await engine.publish(None, V0)
            assert is_said_by(BASE, PROMPT, await engine.generate(PROMPT, ASK, V0))
            return engine, server.port

    port = 0
    engine, port = asyncio.run(serve(None))
    asyncio.run(serve(engine))
    asyncio.run(engine.close())


async def test_a_survey_tells_what_each_server_serves() -> None:
    async with StubServer(context_length=99) as server:
        config = ServersConfig(urls=[server.url, "http://127.0.0.1:9"], **PATIENT)
        found = await survey(config)
        assert found[server.url] == Card(model="stub", context_length=99, adapters=frozenset())
        assert "connection failed" in str(found["http://127.0.0.1:9"])


async def test_a_config_opens_a_pool(model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    async with StubServer(context_length=512, api_key="k") as server:
        config = {
            "kind": "vllm_servers",
            "max_sequences": 9,
            "servers": {"urls": [server.url], "api_key_env": "POOL_KEY"},
        }
        with pytest.raises(ConfigError, match=r"POOL_KEY.*is not set"):
            open_engine(load_config({"engine": config, "rollout": {"concurrency": 9}}), model)
        monkeypatch.setenv("POOL_KEY", "wrong")
        with pytest.raises(ConfigError, match=r"no server of .* can be used .*api_key_env"):
            await asyncio.to_thread(open_engine, load_config({"engine": config}), model)
        monkeypatch.setenv("POOL_KEY", "k")
        engine = await asyncio.to_thread(open_engine, load_config({"engine": config}), model)
        assert (engine.context_length, engine.max_sequences) == (512, 9)
        await engine.publish(None, V0)
        assert (await engine.generate(PROMPT, ASK, V0)).token_ids
        await engine.close()
        with pytest.raises(ConfigError, match=r"engine.context_length = 600, but a server offers 512"):
            await asyncio.to_thread(open_engine, load_config({"engine": config | {"context_length": 600}}), model)
