from __future__ import annotations

import asyncio
import gzip
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import web

pytest.importorskip("mcp")

from agentgrpo.errors import ToolError, ToolFailure, ToolTimeout
from agentgrpo.tools.mcp.content import result_text
from agentgrpo.tools.mcp.servers import McpServer
from agentgrpo.tools.mcp.session import McpSession, open_sessions

NAMES = ("echo", "refuse", "invalid", "slow", "hang", "drop", "broken", "half", "flood", "bomb", "gone")


class Rigged:
    """A server of MCP over HTTP each of whose tools is a fault."""

    def __init__(self) -> None:
        self.awake = asyncio.Event()  # it answers
        self.awake.set()
        self.headers: list[str | None] = []
        self.ended = 0

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/mcp", self.post)
        app.router.add_delete("/mcp", self.end)
        return app

    async def end(self, request: web.Request) -> web.Response:
        await self.awake.wait()
        self.ended += 1
        return web.Response(status=200)

    async def post(self, request: web.Request) -> web.StreamResponse:
        message = await request.json()
        self.headers.append(request.headers.get("Authorization"))
        await self.awake.wait()
        if "id" not in message:
            return web.Response(status=202)
        method, params = message["method"], message.get("params", {})
        if method == "initialize":
            info = {"name": "x", "version": "1"}
            result = {"protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}}, "serverInfo": info}
            return reply(message, result, headers={"mcp-session-id": "s1"})
        if method == "tools/list":
            return reply(message, {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in NAMES]})
        if method == "tools/call":
            return await self.call(request, message, params["name"])
        return reply(message, {})

    async def call(self, request: web.Request, message: Any, name: str) -> web.StreamResponse:
        match name:
            case "refuse":
                return reply(message, {"content": [{"type": "text", "text": "no"}], "isError": True})
            case "invalid":
                error = {"code": -32602, "message": "too many"}
                return web.json_response({"jsonrpc": "2.0", "id": message["id"], "error": error})
            case "slow":
                await asyncio.sleep(60)
            case "hang":
                self.awake.clear()
                await self.awake.wait()
            case "drop":
                assert request.transport is not None
                request.transport.abort()
            case "broken":
                return web.Response(status=500)
            case "gone":
                return web.Response(status=404)
            case "half":
                return web.Response(text='{"jsonrpc": "2.0", "id"', content_type="application/json")
            case "bomb":
                packed = gzip.compress(b" " * 2**24)
                headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
                return web.Response(body=packed, headers=headers)
            case "flood":
                flood = web.StreamResponse(headers={"Content-Type": "application/json"})
                await flood.prepare(request)
                while True:
                    await flood.write(b" " * 2**20)
        return reply(message, {"content": [{"type": "text", "text": "done"}]})


def reply(message: Any, result: Any, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"jsonrpc": "2.0", "id": message["id"], "result": result}, headers=headers)


@pytest.fixture
def rigged() -> Iterator[tuple[Rigged, str]]:
    server, loop = Rigged(), asyncio.new_event_loop()
    runner = web.AppRunner(server.app(), handler_cancellation=True, shutdown_timeout=0.5, access_log=None)

    async def start() -> str:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}/mcp"

    async def end() -> None:
        await runner.cleanup()
        await asyncio.sleep(0.05)  # transports close in the loop

    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield server, asyncio.run_coroutine_threadsafe(start(), loop).result(60)
    finally:
        loop.call_soon_threadsafe(server.awake.set)
        asyncio.run_coroutine_threadsafe(end(), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(60)
        loop.close()


@pytest.fixture
def session(rigged: tuple[Rigged, str]) -> Iterator[McpSession]:
    session = McpSession(McpServer(url=rigged[1], name="rigged", call_seconds=3))
    open_sessions([session])
    yield session
    session.close()


def test_answers_and_errors_are_those_of_the_server(session: McpSession) -> None:
    assert [tool.name for tool in session.tools()] == list(NAMES)
    assert result_text(session.call("echo", {})) == "done"
    assert session.call("refuse", {}).is_error
    with pytest.raises(ToolError, match="too many"):
        session.call("invalid", {})


def test_a_slow_tool_is_stopped_and_the_session_lives_on(session: McpSession) -> None:
    with pytest.raises(ToolTimeout, match=r"slow did not finish within 3 s"):
        session.call("slow", {})
    assert result_text(session.call("echo", {})) == "done"


@pytest.mark.parametrize(
    ("tool", "told"),
    [
        ("hang", r"hangs: no answer within 3 s, nor to a ping"),
        ("drop", "'rigged' (closed the connection|broke)"),
        ("broken", "answered with error -32603"),
        ("gone", "answered with error -32600: Session terminated"),
        ("half", "answered with error -32700"),
        ("flood", "answered one request with more than 33,554,432 bytes"),
        ("bomb", "compressed answer although it was asked not to"),
    ],
)
def test_what_breaks_is_a_failure_within_the_deadline(rigged: tuple[Rigged, str], tool: str, told: str) -> None:
    session = McpSession(McpServer(url=rigged[1], name="rigged", call_seconds=3 if tool == "hang" else 60))
    open_sessions([session])
    began = time.monotonic()
    try:
        with pytest.raises(ToolFailure, match=told):
            session.call(tool, {})
        assert time.monotonic() - began < 45
    finally:
        session.close()


def test_a_server_that_hangs_does_not_hold_up_the_end(rigged: tuple[Rigged, str]) -> None:
    session = McpSession(McpServer(url=rigged[1]))
    open_sessions([session])
    rigged[0].awake.clear()
    began = time.monotonic()
    session.close()
    assert time.monotonic() - began < 45


def test_headers_come_from_the_environment_and_the_end_is_said(
    rigged: tuple[Rigged, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTES_AUTH", "Bearer t0ken")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    session = McpSession(McpServer(url=rigged[1], headers={"Authorization": "NOTES_AUTH"}))
    open_sessions([session])
    session.close()
    assert set(rigged[0].headers) == {"Bearer t0ken"}
    assert rigged[0].ended == 1
