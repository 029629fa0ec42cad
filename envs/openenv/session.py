"""One session with an OpenEnv server: a WebSocket, questions and answers, and what becomes of errors.

It does not know what the observations mean. Every wait has a deadline; after a missed one the session is of no more
use, for the late answer would be taken for that of the next question.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import NoReturn

import aiohttp
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from agentgrpo.errors import EnvFailure
from agentgrpo.tooling import describe, one_line
from agentgrpo.types import Json, JsonObject

CLOSE_SECONDS = 5.0
MAX_BYTES = 2**26  # of one answer


class RefusedAction(Exception):
    """The server did not take an action: the fault is whose wrote it."""


class ServerFull(EnvFailure):
    """The server has no session left."""


class Session:
    """A session of one episode.

    Args:
        url: Of the server, with http:// or ws://.
        seconds: Deadline of each answer.

    Every method raises EnvFailure when the server does not answer, or has failed.
    """

    def __init__(self, url: str, seconds: float) -> None:
        self.url, self.seconds = url.rstrip("/"), seconds
        self._http: aiohttp.ClientSession | None = None
        self._socket: aiohttp.ClientWebSocketResponse | None = None

    async def schema(self) -> JsonObject:
        """Return the JSON schema of the server's actions."""
        try:
            async with asyncio.timeout(self.seconds), self._client().get(f"{_http(self.url)}/schema") as answer:
                answer.raise_for_status()
                found = await answer.json()
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            self._fail(f"did not give its schema: {describe(error)}", error)
        action = found.get("action") if isinstance(found, dict) else None
        if not isinstance(action, dict):
            raise EnvFailure(f"{self.url}/schema says {one_line(repr(found), 80)}, expected an object with 'action'")
        return action

    async def begin(self, data: JsonObject) -> JsonObject:
        """Open the session and reset its environment; while the server is full, wait for a place."""
        patience = AsyncRetrying(
            retry=retry_if_exception_type(ServerFull),
            wait=wait_random_exponential(multiplier=0.1, max=2),
            stop=stop_after_delay(self.seconds),
            reraise=True,
        )
        answer: JsonObject = await patience(self._begin, data)
        return answer

    async def ask(self, kind: str, data: JsonObject | None = None) -> JsonObject:
        """Send a message and return the data of its answer.

        Raises:
            RefusedAction: the server found the message not valid.
        """
        if self._socket is None:
            raise EnvFailure(f"the session with {self.url} is over")
        try:
            async with asyncio.timeout(self.seconds):
                await self._socket.send_json({"type": kind} if data is None else {"type": kind, "data": data})
                received = await self._socket.receive()
        except TimeoutError as error:
            await self.close()
            self._fail(f"did not answer within {self.seconds:g} s", error)
        except (aiohttp.ClientError, OSError) as error:
            self._fail(f"was lost: {describe(error)}", error)
        if received.type is not aiohttp.WSMsgType.TEXT:
            raise EnvFailure(f"{self.url} closed the session ({received.type.name.lower()})")
        return self._read(received.data)

    async def close(self) -> None:
        """End the session, as politely as the deadline allows."""
        socket, self._socket = self._socket, None
        http, self._http = self._http, None
        with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                if socket is not None and not socket.closed:
                    await socket.send_json({"type": "close"})
                    await socket.receive()  # the server closes: OpenEnv's logs an error when we are faster
                    await socket.close()
        if http is not None:
            await http.close()

    async def _begin(self, data: JsonObject) -> JsonObject:
        try:
            async with asyncio.timeout(self.seconds):
                self._socket = await self._client().ws_connect(f"{_http(self.url)}/ws", max_msg_size=MAX_BYTES)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            self._fail(f"cannot be reached: {describe(error)}", error)
        return await self.ask("reset", data)

    def _client(self) -> aiohttp.ClientSession:
        if self._http is None:
            self._http = aiohttp.ClientSession()
        return self._http

    def _read(self, text: str) -> JsonObject:
        try:
            message: Json = json.loads(text)
        except (ValueError, RecursionError) as error:
            self._fail("sent no JSON", error)
        data = message.get("data") if isinstance(message, dict) else None
        if not isinstance(data, dict):
            raise EnvFailure(f"{self.url} sent {one_line(text, 80)}, expected an object with 'type' and 'data'")
        if message.get("type") != "error":
            return data
        code, told = data.get("code"), one_line(_reason(data))
        if code == "VALIDATION_ERROR":
            raise RefusedAction(told)
        if code == "CAPACITY_REACHED":
            raise ServerFull(f"{self.url} is full: {told}. Lower rollout.concurrency, or raise the server's capacity")
        raise EnvFailure(f"{self.url} failed ({code}): {told}")

    def _fail(self, what: str, error: BaseException) -> NoReturn:
        raise EnvFailure(f"the OpenEnv server {self.url} {what}") from error


def _http(url: str) -> str:
    return "http" + url.removeprefix("ws") if url.startswith("ws") else url


def _reason(data: JsonObject) -> str:
    """Return what an error says: pydantic's list of problems where there is one."""
    problems = [item for item in data.get("errors") or () if isinstance(item, dict)]
    lines = [f"{'.'.join(map(str, item.get('loc') or ()))}: {item.get('msg')}" for item in problems]
    return "; ".join(lines) or str(data.get("message"))
