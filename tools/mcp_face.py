"""A simulated app as an MCP server, on standard input and output or over HTTP, one state per session.

`python -m agentgrpo.tools.mcp_face shop --snapshot start.db`, or with `--port 8000` at http://127.0.0.1:8000/mcp.
The state can be read as resources, which a reward needs and a model is not shown: app://state (JSON), app://state-hash,
app://snapshot. It does not know who asks, and does not check: let only yourself reach it.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentgrpo.errors import AgentGRPOError, UserError
from agentgrpo.tools.appstate import AppState
from agentgrpo.tools.faces import Sessions, app_maker

if TYPE_CHECKING:
    from mcp import types
    from mcp.server.lowlevel import Server

RESOURCES = {"app://state": "everything, as JSON", "app://state-hash": "its hash", "app://snapshot": "the database"}
IDLE_SECONDS = 1800.0  # a session over HTTP that nobody used for so long is forgotten
_HEADER = "mcp-session-id"


class McpFace:
    """The server of an app.

    Args:
        name: What it calls itself.
        make: Returns the app in its start state.
    """

    def __init__(self, name: str, make: Callable[[], AppState]) -> None:
        self.sessions = Sessions(make)
        self._name = name
        self._used: dict[str, float] = {}  # sessions over HTTP, and when they were last used

    def server(self) -> Server[Any]:
        """Return the SDK's server."""
        from mcp.server.lowlevel import Server

        return Server(
            self._name,
            on_list_tools=self._list,
            on_call_tool=self._call,
            on_list_resources=self._list_resources,
            on_read_resource=self._read,
        )

    async def serve_stdio(self) -> None:
        """Serve one session on standard input and output, until the input ends."""
        from mcp.server.stdio import stdio_server

        server = self.server()
        async with stdio_server() as (read, write):
            await server.run(read, write, server.create_initialization_options())

    def http_app(self) -> Callable[..., Awaitable[None]]:
        """Return an ASGI application that serves sessions at /mcp."""
        app = self.server().streamable_http_app(json_response=True, session_idle_timeout=IDLE_SECONDS)

        async def forgetting(scope: Any, receive: Any, send: Any) -> None:
            await app(scope, receive, send)
            if scope["type"] == "http" and scope["method"] == "DELETE":
                self._forget(dict(scope["headers"]).get(_HEADER.encode(), b"").decode("latin-1"))

        return forgetting

    async def _list(self, ctx: Any, params: Any) -> types.ListToolsResult:
        from mcp import types

        tools = self.sessions.tools(self._session(ctx)).values()
        shown = [types.Tool(name=t.name, description=t.description, input_schema=t.parameters) for t in tools]
        return types.ListToolsResult(tools=shown)

    async def _call(self, ctx: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
        from mcp import MCPError, types

        tools = self.sessions.tools(self._session(ctx))
        if params.name not in tools:
            raise MCPError(types.INVALID_PARAMS, f"there is no tool '{params.name[:40]}'")
        result = tools[params.name].call(params.arguments or {})
        # The message alone: whoever calls the tool wraps it as its own tools' errors are.
        text = json.loads(result.content)["error"]["message"] if result.is_error else result.content
        content: list[types.ContentBlock] = [types.TextContent(type="text", text=text)]
        return types.CallToolResult(content=content, is_error=result.is_error)

    async def _list_resources(self, ctx: Any, params: Any) -> types.ListResourcesResult:
        from mcp import types

        shown = [types.Resource(uri=uri, name=uri, description=text) for uri, text in RESOURCES.items()]
        return types.ListResourcesResult(resources=shown)

    async def _read(self, ctx: Any, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
        from mcp import MCPError, types

        app, uri = self.sessions.app(self._session(ctx)), str(params.uri)
        contents: types.TextResourceContents | types.BlobResourceContents
        if uri == "app://snapshot":
            blob = base64.b64encode(app.snapshot()).decode()
            contents = types.BlobResourceContents(uri=uri, blob=blob, mime_type="application/vnd.sqlite3")
        elif uri in RESOURCES:
            text = app.state_hash() if uri == "app://state-hash" else json.dumps(app.state())
            contents = types.TextResourceContents(uri=uri, text=text, mime_type="application/json")
        else:
            raise MCPError(types.INVALID_PARAMS, f"there is no resource '{uri[:80]}'; there are {', '.join(RESOURCES)}")
        return types.ReadResourceResult(contents=[contents])

    def _session(self, ctx: Any) -> str:
        from mcp import MCPError, types

        if ctx.request is None:
            return ""  # standard input and output: one process, one session
        session = ctx.request.headers.get(_HEADER)
        if session is None:
            raise MCPError(types.INVALID_REQUEST, "this server keeps a state per session: begin one with initialize")
        now = time.monotonic()
        if session not in self._used:
            for old in [name for name, used in self._used.items() if now - used > IDLE_SECONDS]:
                self._forget(old)
        self._used[session] = now
        return str(session)

    def _forget(self, session: str) -> None:
        self._used.pop(session, None)
        self.sessions.end(session)


def main() -> int:
    """Serve an app."""
    parser = argparse.ArgumentParser(prog="python -m agentgrpo.tools.mcp_face", description="An app as an MCP server.")
    parser.add_argument("app", help="shop, or module:Class")
    parser.add_argument("--snapshot", type=Path, help="the state every session begins with (AppState.snapshot())")
    parser.add_argument("--port", type=int, help="serve HTTP at 127.0.0.1 rather than standard input and output")
    given = parser.parse_args()
    try:
        face = McpFace(given.app, app_maker(given.app, given.snapshot))
        if given.port is None:
            asyncio.run(face.serve_stdio())
        else:
            _serve_http(face, given.port)
    except AgentGRPOError as error:
        print(error, file=sys.stderr)
        return 2
    except ImportError as error:
        print(UserError(f"the MCP face needs an extra: pip install 'agentgrpo[mcp]' ({error})"), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _serve_http(face: McpFace, port: int) -> None:
    import uvicorn

    uvicorn.run(face.http_app(), host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    sys.exit(main())
