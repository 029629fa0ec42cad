from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
from pathlib import Path

import aiohttp
import pytest

from agentgrpo.tools.http.client import HttpClient
from agentgrpo.tools.http.sessions import session_for
from tests.tools.http.network import Names, Service

ROOT = Path(__file__).parents[3]


def test_each_loop_has_a_session_that_is_closed_before_the_loop_is() -> None:
    made: list[aiohttp.ClientSession] = []

    async def use() -> None:
        first, second = await asyncio.gather(*(session_for(None, allow_private=False) for _ in range(2)))
        assert first is second is await session_for(None, allow_private=False)
        assert not first.closed
        made.append(first)

    for _ in range(2):
        asyncio.run(use())
        assert made[-1].closed
    assert made[0] is not made[1]
    made.clear()
    gc.collect()  # warnings are errors: a session left open would say so here


async def test_policies_do_not_share_a_session() -> None:
    names = Names({})
    policies = [(None, False), (None, True), (names, False), (Names({}), False)]
    sessions = [await session_for(resolver, allow_private=is_private) for resolver, is_private in policies]
    assert len(set(map(id, sessions))) == 4
    assert await session_for(names, allow_private=False) is sessions[2]


async def test_a_session_that_somebody_closed_is_replaced() -> None:
    first = await session_for(None, allow_private=True)
    await first.close()
    assert not (await session_for(None, allow_private=True)).closed


def test_loops_in_several_threads_do_not_share() -> None:
    used: list[aiohttp.ClientSession] = []

    async def use() -> None:
        for _ in range(50):
            session = await session_for(None, allow_private=False)
            assert session._loop is asyncio.get_running_loop()
            await asyncio.sleep(0)
        used.append(session)

    threads = [threading.Thread(target=lambda: asyncio.run(use())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(set(map(id, used))) == 8
    assert all(session.closed for session in used)


async def test_clients_of_a_loop_share_connections() -> None:
    async with Service() as service:
        for _ in range(20):
            await HttpClient(service.url, allow_private=True).request("GET", "/x")
        assert len({id(hit.transport) for hit in service.hits}) == 1


async def test_ask_blocks_a_thread_and_runs_on_a_loop_elsewhere() -> None:
    async with Service() as service:
        client = HttpClient(service.url, allow_private=True)
        answer = await asyncio.to_thread(client.ask, "POST", "/x", query={"a": "1"}, json={"b": 2})
        assert (answer.text, service.hits[0].query_string, service.bodies) == ("hit", "a=1", [b'{"b": 2}'])


ONE_LOOP = "asyncio.run(client.request('GET', '/x'))"
BACKGROUND = "client.ask('GET', '/x')"  # the private loop of a background thread
OTHER_THREAD = "import threading; t = threading.Thread(target=lambda: " + ONE_LOOP + "); t.start(); t.join()"


@pytest.mark.parametrize("use", [ONE_LOOP, BACKGROUND, "; ".join((ONE_LOOP, OTHER_THREAD, BACKGROUND, ONE_LOOP))])
async def test_a_program_that_ends_leaves_no_session_open(use: str) -> None:
    async with Service() as service:
        lines = (
            "import asyncio",
            "from agentgrpo.tools.http import HttpClient",
            f"client = HttpClient({service.url!r}, allow_private=True)",
            use,
            "print('done')",
        )
        done = await asyncio.to_thread(run_python, "\n".join(lines))
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "default", "-W", "error::ResourceWarning", "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
