"""A simulated app as an HTTP service, one state per session, with seeded latency and faults.

`python -m agentgrpo.tools.http_face shop --snapshot start.db --port 8000 --errors 0.1`. A request's header `X-Session`
names its session; without one it is "default".

| request | answer |
|---|---|
| GET /tools | the tools' schemas, in OpenAI's form |
| POST /tools/NAME | calls a tool with the JSON object it is sent: 200 and what it returned, or 4xx and the error |
| GET /state, /state-hash, /snapshot | the state as JSON, its hash, the database |
| PUT /snapshot | the session begins anew with this database |
| POST /reset | back to the session's start |
| DELETE /session | forgets it |

Only calls of tools have faults. One that comes with an `Idempotency-Key` is done once, however often it is repeated:
half of what goes wrong goes wrong after the work was done, as it does in life. Without the key a repeated call is a
second one. It does not know who asks, and does not check: let only yourself reach it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import socket
import struct
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from aiohttp import web

from agentgrpo.errors import AgentGRPOError, UserError
from agentgrpo.tooling import ToolResult, error_result
from agentgrpo.tools.appstate import AppState
from agentgrpo.tools.faces import Sessions, app_maker
from agentgrpo.tools.faults import Fault, Faults

SESSION, KEY = "X-Session", "Idempotency-Key"
MAX_BODY = 2**24  # bytes: a snapshot may be large
_STATUS = {"unknown_tool": 404, "tool_error": 409, "timeout": 504}  # another error of a call: 422
_ABORTIVE = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: closing sends RST


class HttpFace:
    """The service of an app.

    Args:
        make: Returns the app in its start state.
        faults: What goes wrong, and how often; None: nothing.
    """

    def __init__(self, make: Callable[[], AppState], faults: Faults | None = None) -> None:
        self.sessions = Sessions(make)
        self.faults = faults or Faults()
        self._counts: defaultdict[str, int] = defaultdict(int)  # calls, by session
        self._done: defaultdict[str, dict[str, ToolResult]] = defaultdict(dict)  # results, by session and key
        self._closing = asyncio.Event()

    def app(self) -> web.Application:
        """Return the aiohttp application."""
        app = web.Application(client_max_size=MAX_BODY, middlewares=[_told])
        app.add_routes(
            [
                web.get("/tools", self._tools),
                web.post("/tools/{name}", self._call),
                web.get("/state", self._state),
                web.get("/state-hash", self._state_hash),
                web.get("/snapshot", self._snapshot),
                web.put("/snapshot", self._begin),
                web.post("/reset", self._reset),
                web.delete("/session", self._end),
            ]
        )
        app.on_shutdown.append(self._close)
        return app

    async def _tools(self, request: web.Request) -> web.Response:
        return web.json_response([tool.schema for tool in self.sessions.tools(_session(request)).values()])

    async def _call(self, request: web.Request) -> web.StreamResponse:
        session, body = _session(request), await request.read()
        fault = self.faults.draw(session, self._counts[session])
        self._counts[session] += 1
        await asyncio.sleep(fault.latency)
        if fault.kind != "none" and not fault.is_after:
            return await self._fail(request, fault)
        result = self._run(session, request, body)
        if fault.kind != "none":
            return await self._fail(request, fault)
        error = json.loads(result.content)["error"]["type"] if result.is_error else None
        status = 200 if error is None else _STATUS.get(error, 422)
        return web.Response(text=result.content, status=status, content_type="application/json")

    def _run(self, session: str, request: web.Request, body: bytes) -> ToolResult:
        """Do the work, or return what it gave when it was done for the same key."""
        done, key = self._done[session], request.headers.get(KEY)
        if key is not None and key in done:
            return done[key]
        name, tools = request.match_info["name"], self.sessions.tools(session)
        try:
            arguments = json.loads(body or b"{}")
        except (ValueError, RecursionError):
            return error_result("invalid_json", "the body is no JSON")
        if not isinstance(arguments, dict):
            return error_result("invalid_arguments", f"expected a JSON object, got {type(arguments).__name__}")
        if name not in tools:
            return error_result("unknown_tool", f"there is no tool '{name[:40]}'; the tools are {', '.join(tools)}")
        result = tools[name].call(arguments)
        if key is not None:
            done[key] = result
        return result

    async def _fail(self, request: web.Request, fault: Fault) -> web.StreamResponse:
        match fault.kind:
            case "too_many":
                return web.Response(status=429, headers={"Retry-After": str(self.faults.retry_after)})
            case "error":
                return web.Response(status=500, text="something went wrong")
            case "hang":
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self.faults.hang_seconds):
                        await self._closing.wait()
        return _reset_connection(request)

    async def _state(self, request: web.Request) -> web.Response:
        return web.json_response(self.sessions.app(_session(request)).state())

    async def _state_hash(self, request: web.Request) -> web.Response:
        return web.json_response(self.sessions.app(_session(request)).state_hash())

    async def _snapshot(self, request: web.Request) -> web.Response:
        return web.Response(body=self.sessions.app(_session(request)).snapshot())

    async def _begin(self, request: web.Request) -> web.Response:
        self.sessions.begin(_session(request), await request.read())
        return self._begun(_session(request))

    async def _reset(self, request: web.Request) -> web.Response:
        self.sessions.app(_session(request))
        self.sessions.reset(_session(request))
        return self._begun(_session(request))

    async def _end(self, request: web.Request) -> web.Response:
        self.sessions.end(_session(request))
        return self._begun(_session(request))

    def _begun(self, session: str) -> web.Response:
        """Let a session's calls, and so its faults, begin at 0."""
        self._counts.pop(session, None)
        self._done.pop(session, None)
        return web.Response(status=204)

    async def _close(self, app: web.Application) -> None:
        self._closing.set()
        self.sessions.close()


def _session(request: web.Request) -> str:
    return request.headers.get(SESSION, "default")


@web.middleware
async def _told(request: web.Request, handler: Any) -> web.StreamResponse:
    """Answer what a caller got wrong with 400."""
    try:
        response: web.StreamResponse = await handler(request)
        return response
    except UserError as error:
        return web.json_response({"error": str(error)}, status=400)


def _reset_connection(request: web.Request) -> web.Response:
    if request.transport is not None:
        connection = request.transport.get_extra_info("socket")
        with contextlib.suppress(OSError, AttributeError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORTIVE)
        request.transport.abort()
    return web.Response(status=500)  # nobody is there to read it


@asynccontextmanager
async def serving(face: HttpFace, port: int = 0) -> AsyncIterator[str]:
    """Serve a face at this machine's loopback address, and give its URL; port 0 takes a free one."""
    runner = web.AppRunner(face.app(), handler_cancellation=True, shutdown_timeout=1.0, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def _serve(face: HttpFace, port: int) -> None:
    async with serving(face, port) as url:
        print(url, flush=True)
        await asyncio.Event().wait()


def main() -> int:
    """Serve an app."""
    parser = argparse.ArgumentParser(prog="python -m agentgrpo.tools.http_face", description="An app over HTTP.")
    parser.add_argument("app", help="shop, or module:Class")
    parser.add_argument("--snapshot", type=Path, help="the state every session begins with (AppState.snapshot())")
    parser.add_argument("--port", type=int, default=0, help="at 127.0.0.1; 0 takes a free one")
    for field in fields(Faults):
        kind: Callable[[str], Any] = type(field.default)
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=field.default)
    given = vars(parser.parse_args())
    try:
        faults = Faults(**{field.name: given[field.name] for field in fields(Faults)})
        asyncio.run(_serve(HttpFace(app_maker(given["app"], given["snapshot"]), faults), given["port"]))
    except AgentGRPOError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
