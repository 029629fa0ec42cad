"""One server of a pool, at the moments at which something else happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from agentgrpo.config.run import load_config
from agentgrpo.engines import HasMetrics
from agentgrpo.engines.vllm_api import TokenStream, VllmApi
from agentgrpo.errors import ConfigError, EngineFailure
from agentgrpo.types import Policy, Sampling
from tests.engines.stubs import adapter, canary, pool, settled

V0, V1 = Policy(), Policy(version=1)
NOW = adapter(1)


async def test_a_version_published_while_a_server_is_taken_in_reaches_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with pool(2) as (_, engine):
        await engine.publish(None, V0)
        await settled(lambda: all(server.is_up for server in engine.servers))
        ask, begun = VllmApi.preemptions, list[asyncio.Task[object]]()

        async def publish_first(api: VllmApi) -> int:
            if api is engine.servers[1].api and not begun:
                begun.append(asyncio.create_task(engine.publish(NOW, V1, canary=canary(NOW.sha256))))
                await settled(lambda: V1 in engine.servers[0].names)
            return await ask(api)

        monkeypatch.setattr(VllmApi, "preemptions", publish_first)
        engine.servers[1].fail("a test")
        await settled(lambda: bool(begun) and engine.servers[1].is_up)
        await begun[0]
        assert set(engine.servers[1].names) == {V0, V1}


async def test_an_outage_is_counted_once_however_often_it_is_told() -> None:
    async with pool(2) as (_, engine):
        await engine.publish(None, V0)
        await settled(lambda: all(server.is_up for server in engine.servers))
        assert engine.metrics() == {"engine/servers_up": 2.0, "engine/server_outages": 0.0}
        engine.servers[1].fail("a test")
        engine.servers[1].fail("the same test")
        assert engine.metrics() == {"engine/servers_up": 1.0, "engine/server_outages": 1.0}
        assert isinstance(engine, HasMetrics)


async def test_a_server_too_slow_to_load_a_version_is_waited_for() -> None:
    async with pool(1, first_token_seconds=0.4) as ((server,), engine):
        await engine.publish(None, V0)
        server.stall()
        publishing = asyncio.create_task(engine.publish(NOW, V1, canary=canary(NOW.sha256)))
        await settled(lambda: not engine.servers[0].is_up)
        server.recover()
        (proof,) = await publishing
        assert proof.verdict == "indistinguishable" and engine.servers[0].is_up
        assert list(server.adapters.values()) == [NOW.sha256]


async def test_a_load_that_fails_once_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with pool(1, options={"refused": {0, 2, 3}}) as ((server,), engine):
        (proof,) = await engine.publish(NOW, V1, canary=canary(NOW.sha256))
        assert proof.verdict == "indistinguishable" and server.loads == 2
        assert server.adapters == {engine.servers[0].names[V1]: NOW.sha256} and not caplog.records
        with pytest.raises(EngineFailure, match=r"no server answers with policy-v2: .* could not load policy-v2 .*500"):
            await engine.publish(adapter(2), Policy(version=2))
        assert len(server.adapters) == 1


async def test_a_server_that_was_mended_no_longer_refuses() -> None:
    async with pool(2) as (servers, engine):
        await engine.publish(None, V0, canary=canary())
        await settled(lambda: all(server.is_up for server in engine.servers))
        servers[1].misapplied = {0}
        await engine.publish(NOW, V1, canary=canary(NOW.sha256))
        assert engine._versions[V1].refusals
        await settled(lambda: engine.servers[1].is_up)
        assert not engine._versions[V1].refusals


async def test_a_version_retired_under_a_request_is_no_restart(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with pool(1) as (_, engine):
        await engine.publish(NOW, V1, canary=canary(NOW.sha256))
        ask = VllmApi.stream

        @asynccontextmanager
        async def retire_first(
            api: VllmApi, model: str, prompt_ids: Sequence[int], sampling: Sampling, session: str
        ) -> AsyncIterator[TokenStream]:
            await engine.retire(V1)
            async with ask(api, model, prompt_ids, sampling, session) as stream:
                yield stream

        monkeypatch.setattr(VllmApi, "stream", retire_first)
        with pytest.raises(EngineFailure, match="policy-v1 is not published"):
            await engine.generate((7, 8), Sampling(max_tokens=4), V1)
        assert engine.servers[0].is_up and not caplog.records


def test_an_address_holds_no_password() -> None:
    servers = {"urls": ["http://me:secret@10.0.0.5:8000"]}
    with pytest.raises(ConfigError, match="set api_key_env") as caught:
        load_config({"engine": {"kind": "vllm_servers", "servers": servers}})
    assert "secret" not in str(caught.value)
