from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import pytest
from aiohttp import ClientConnectionError, ClientResponseError, ClientSession, ClientTimeout
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_none

from agentgrpo.envs.shop.env import Shop
from agentgrpo.errors import ToolError
from agentgrpo.tooling import background_loop
from agentgrpo.tools.faces import app_maker
from agentgrpo.tools.faults import Fault, Faults
from agentgrpo.tools.http_face import KEY, SESSION, HttpFace, serving
from agentgrpo.tools.shop import ShopApp
from agentgrpo.types import JsonObject
from tests.clock import leap
from tests.tools.remote_shop import RemoteApp, RemoteShop, solve

T = TypeVar("T")
START = ShopApp()
START.insert("customers", [{"id": "C1", "name": "Ada Stone"}])
ADDRESS = {"customer": "C1", "street": "Elm"}


@asynccontextmanager
async def client(faults: Faults | None = None, session: str = "s") -> AsyncIterator[ClientSession]:
    face = HttpFace(lambda: ShopApp(START.snapshot()), faults)
    async with serving(face) as url, ClientSession(url, headers={SESSION: session}) as http:
        yield http


async def post(http: ClientSession, name: str, **options: Any) -> tuple[int, Any]:
    async with http.post(f"/tools/{name}", **options) as response:
        return response.status, json.loads(await response.text())


async def test_the_tools_are_those_of_the_app() -> None:
    async with client() as http, http.get("/tools") as response:
        schemas = await response.json()
    assert [schema["function"]["name"] for schema in schemas][:2] == ["find_customer", "list_addresses"]
    assert schemas[2]["function"]["parameters"]["required"] == ["customer", "street"]


async def test_a_result_is_the_body_and_an_error_a_status() -> None:
    async with client() as http:
        assert await post(http, "find_customer", json={"name": "Ada Stone"}) == (200, {"customer": "C1"})
        for name, options, status, kind in (
            ("find_customer", {"json": {"name": "Eve"}}, 409, "tool_error"),
            ("find_customer", {"json": {"nam": "Eve"}}, 422, "invalid_arguments"),
            ("find_customer", {"json": [1]}, 422, "invalid_arguments"),
            ("find_customer", {"data": b"{"}, 422, "invalid_json"),
            ("find_customer", {"data": b"[" * 100_000}, 422, "invalid_json"),
            ("find_customer", {}, 422, "invalid_arguments"),
            ("snapshot", {"json": {}}, 404, "unknown_tool"),
        ):
            got, body = await post(http, name, **options)
            assert (got, body["error"]["type"]) == (status, kind)


async def test_sessions_have_a_state_each_that_can_be_set_and_reset() -> None:
    async with client() as http:
        assert (await post(http, "add_address", json=ADDRESS))[0] == 200
        hashes = {}
        for session in ("s", "other"):
            async with http.get("/state-hash", headers={SESSION: session}) as response:
                hashes[session] = await response.json()
        assert hashes["other"] == START.state_hash() != hashes["s"]
        async with http.get("/snapshot") as response:
            snapshot = await response.read()
        async with http.put("/snapshot", data=snapshot, headers={SESSION: "third"}) as response:
            assert response.status == 204
        assert (await post(http, "list_addresses", json={"customer": "C1"}, headers={SESSION: "third"}))[1] == ["Elm"]
        async with http.post("/reset") as response:
            assert response.status == 204
        async with http.get("/state") as response:
            assert await response.json() == START.state()
        async with http.put("/snapshot", data=b"nonsense") as response:
            assert (response.status, (await response.json())["error"][:28]) == (400, "this is no snapshot of ShopA")
        async with http.delete("/session", headers={SESSION: "third"}) as response:
            assert response.status == 204
        assert (await post(http, "list_addresses", json={"customer": "C1"}, headers={SESSION: "third"}))[1] == []


async def fates(faults: Faults, calls: int) -> list[str]:
    """Return what each of so many calls met."""
    met: list[str] = []
    async with client(faults) as http:
        for _ in range(calls):
            try:
                async with http.post("/tools/list_addresses", json={"customer": "C1"}, timeout=ClientTimeout(60)) as r:
                    met.append(f"{r.status} {r.headers.get('Retry-After', '')}".strip())
            except TimeoutError:
                met.append("hang")
            except ClientConnectionError:
                met.append("reset")
    return met


async def test_faults_come_as_they_were_drawn_and_again_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    faults = Faults(seed=3, too_many=0.2, errors=0.2, hangs=0.05, resets=0.2, retry_after=7)
    told = {"none": "200", "too_many": "429 7", "error": "500", "hang": "hang", "reset": "reset"}
    expected = [told[faults.draw("s", number).kind] for number in range(40)]
    assert set(expected) == set(told.values())
    draw = Faults.draw

    def drawn(self: Faults, session: str, number: int) -> Fault:
        found = draw(self, session, number)
        if found.kind == "hang":
            asyncio.get_running_loop().call_soon(leap, 61)
        return found

    monkeypatch.setattr(Faults, "draw", drawn)
    assert await fates(faults, 40) == expected
    assert await fates(faults, 40) == expected


async def test_an_answer_takes_as_long_as_was_drawn() -> None:
    async with client(Faults(latency=2.0)) as http:
        clock = asyncio.get_running_loop().time()
        await asyncio.gather(*(post(http, "list_addresses", json={"customer": "C1"}) for _ in range(10)))
        assert 2.0 <= asyncio.get_running_loop().time() - clock < 15.0  # one after the other: 20


@pytest.mark.parametrize("kind", ["error", "reset"])
async def test_work_whose_answer_was_lost_is_done_once_for_its_key(kind: str) -> None:
    rates: JsonObject = {"errors": 0.5} if kind == "error" else {"resets": 0.5}
    drawn = (Faults(seed=seed, **rates) for seed in count())
    lost = next(f for f in drawn if f.draw("s", 0).is_after and {f.draw("s", n).kind for n in (1, 3)} == {"none"})
    for headers, second in (({KEY: "1"}, 200), ({}, 409)):
        async with client(lost) as http:
            try:
                assert (await http.post("/tools/add_address", json=ADDRESS, headers=headers)).status == 500
            except ClientConnectionError:
                assert kind == "reset"
            assert (await post(http, "add_address", json=ADDRESS, headers=headers))[0] == second


class HttpApp(RemoteApp):
    """A shop behind the face. Retries what is safe to retry: a call that was not acknowledged, under the same key."""

    def __init__(self, url: str) -> None:
        self._url, self._keys, self.attempts = url, count(), 0
        self._session = ""

    def call(self, name: str, arguments: JsonObject) -> str:
        return self._wait(self._call(name, arguments))

    async def _call(self, name: str, arguments: JsonObject) -> str:
        key = str(next(self._keys))
        broken = (ClientConnectionError, ClientResponseError, TimeoutError)
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(broken), stop=stop_after_attempt(20), wait=wait_none(), reraise=True
        )
        async for attempt in retrying:
            with attempt:
                return await self._once(name, arguments, key)
        raise AssertionError("unreachable: tenacity reraises")

    async def _once(self, name: str, arguments: JsonObject, key: str) -> str:
        self.attempts += 1
        headers, timeout = {SESSION: self._session, KEY: key}, ClientTimeout(0.3)
        async with (
            ClientSession(self._url, headers=headers, timeout=timeout) as http,
            http.post(f"/tools/{name}", json=arguments) as response,
        ):
            text = await response.text()
            if response.status == 429 or response.status >= 500:
                await asyncio.sleep(float(response.headers.get("Retry-After", 0)))
                response.raise_for_status()
            if response.status >= 400:
                raise ToolError(json.loads(text)["error"]["message"])
            return text

    def restore(self, snapshot: bytes) -> None:
        self._session = f"episode {next(self._keys)}"
        self._ask("PUT", "/snapshot", data=snapshot)

    def state(self) -> JsonObject:
        state: JsonObject = json.loads(self._ask("GET", "/state"))
        return state

    def state_hash(self) -> str:
        return str(json.loads(self._ask("GET", "/state-hash")))

    def close(self) -> None:
        self._ask("DELETE", "/session")

    def _ask(self, method: str, path: str, **options: Any) -> bytes:
        async def asked() -> bytes:
            async with aiohttp.request(method, self._url + path, headers={SESSION: self._session}, **options) as r:
                r.raise_for_status()
                return await r.read()

        return self._wait(asked())

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, background_loop()).result(30)


@contextmanager
def served(face: HttpFace) -> Iterator[str]:
    """Serve a face in a thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    context = serving(face)
    try:
        yield asyncio.run_coroutine_threadsafe(context.__aenter__(), loop).result(5)
    finally:
        asyncio.run_coroutine_threadsafe(context.__aexit__(None, None, None), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        loop.close()


def test_the_oracle_solves_its_tasks_through_everything_that_goes_wrong() -> None:
    faults = Faults(seed=5, latency=0.001, spread=1.0, too_many=0.1, errors=0.15, hangs=0.01, resets=0.1, retry_after=0)
    rows = Shop.tasks("train")[:20]
    with served(HttpFace(app_maker("shop"), faults)) as url:
        app = HttpApp(url)
        remote, here = RemoteShop(app), Shop()
        try:
            solved = [solve(remote, row) for row in rows]
        finally:
            remote.close()
    assert solved == [solve(here, row) for row in rows]
    assert all(reward == 1.0 for reward, _ in solved)
    calls = sum(len(hashes) - 2 for _, hashes in solved)
    assert app.attempts > 1.2 * calls  # things did go wrong


def test_the_command_serves_an_app_until_it_is_told_to_stop(tmp_path: Path) -> None:
    start = tmp_path / "start.db"
    start.write_bytes(START.snapshot())
    command = [sys.executable, "-m", "agentgrpo.tools.http_face", "shop", "--snapshot", str(start), "--errors", "1"]
    served = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert served.stdout is not None
        url = served.stdout.readline().strip()

        async def ask() -> tuple[int, str]:
            async with ClientSession(url) as http:
                failed = (await http.post("/tools/find_customer", json={"name": "x"})).status
                return failed, await (await http.get("/state-hash")).json()

        assert asyncio.run(ask()) == (500, START.state_hash())
    finally:
        served.terminate()
        served.communicate(timeout=60)


def test_a_persons_mistakes_are_told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from agentgrpo.tools.http_face import main

    for words, told in ((["shp"], "cannot import the app 'shp'"), (["shop", "--errors", "2"], "sum to 1 at most")):
        monkeypatch.setattr(sys, "argv", ["http_face", *words])
        assert main() == 2
        assert told in capsys.readouterr().err
