"""The tools of MCP servers as tools of an environment: one session per server and episode.

It does not know tasks or rewards.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from agentgrpo.errors import EnvError, ToolError, ToolFailure, nearest
from agentgrpo.tooling import Tool
from agentgrpo.tools.mcp.content import result_text
from agentgrpo.tools.mcp.pins import Pins, canonical, check_pin, pins_of_run
from agentgrpo.tools.mcp.schema import checker, flat
from agentgrpo.tools.mcp.servers import McpServer, as_server
from agentgrpo.tools.mcp.session import McpSession, open_sessions
from agentgrpo.types import JsonObject

if TYPE_CHECKING:
    from mcp import types


class McpTools:
    """Sessions with servers, and what they offer. Its methods block: give the environment isolation "thread".

    `restart` in `reset_task`, `tools` in `extra_tools`, `close` in `close`. All raise ToolFailure when a server is
    dead, hung, or does not keep to the protocol, and RunError when a tool is not what it was when the run began.

    Args:
        *servers: `McpServer`s, or their tables of a configuration file.

    Raises:
        EnvError: a server is not well defined, or this installation cannot speak with it.
    """

    def __init__(self, *servers: McpServer | Mapping[str, Any]) -> None:
        _check_installed()
        self.servers = tuple(as_server(server) for server in servers)
        for server in self.servers:
            server.check()
        self._boxes: list[_Box] = []
        self._own_pins = Pins()

    def restart(self) -> None:
        """End the sessions and begin new ones: nothing of an episode is left to the next."""
        self.close()
        pins = pins_of_run() or self._own_pins
        boxes = [_Box(McpSession(server), pins) for server in self.servers]
        open_sessions([box.session for box in boxes])
        self._boxes = boxes

    def tools(self) -> list[Tool]:
        """Return what the servers offer now; opens the sessions if there are none."""
        if not self._boxes:
            self.restart()
        named: dict[str, Tool] = {}
        for box in self._boxes:
            for tool in box.tools():
                if tool.name in named:
                    raise EnvError(f"two MCP servers have a tool '{tool.name}', {box.session.server} is one: prefix it")
                named[tool.name] = tool
        return list(named.values())

    def call(self, name: str, /, **arguments: Any) -> str:
        """Call a tool outside of the conversation, such as for a reward, and return its text.

        Raises:
            ToolError: the tool said no.
        """
        tools = {tool.name: tool for tool in self.tools()}
        if name not in tools:
            raise EnvError(f"no MCP server here has a tool '{name}'.{nearest(name, tools)}")
        return cast(str, tools[name].function(**arguments))

    def read(self, uri: str) -> str | bytes:
        """Read a resource of the first server that has it; a reward can look at a state the model has no tool for."""
        if not self._boxes:
            self.restart()
        failure = ToolFailure(f"no MCP server is here to read {uri} from")
        for box in self._boxes:
            try:
                content = box.session.read(uri).contents[0]
            except (ToolFailure, IndexError) as error:
                failure = error if isinstance(error, ToolFailure) else ToolFailure(f"{box.session.server}: no {uri}")
                continue
            blob = getattr(content, "blob", None)
            return base64.b64decode(blob) if blob is not None else str(getattr(content, "text", ""))
        raise failure

    def close(self) -> None:
        """End the sessions, and the servers that were started for them, with everything those started."""
        boxes, self._boxes = self._boxes, []
        for box in boxes:
            box.session.close()


class _Box:
    """One session's tools. A tool that did not change stays the same object, so that nobody renders it again."""

    def __init__(self, session: McpSession, pins: Pins) -> None:
        self.session = session
        self._pins = pins
        self._is_first = True
        self._known: dict[str, Tool] = {}  # by all that is shown of it
        self._offered: list[Tool] = []

    def tools(self) -> list[Tool]:
        if self.session.is_stale:
            listing = [_shown(tool) for tool in self.session.tools()]
            if self._is_first:
                check_pin(self.session.server, listing)
            self._pins.check(self.session.server, listing)
            self._offered, self._is_first = [self._tool(shown) for shown in listing], False
        return self._offered

    def _tool(self, shown: JsonObject) -> Tool:
        key = canonical(shown)
        if key not in self._known:
            self._known[key] = self._make(shown)
        return self._known[key]

    def _make(self, shown: JsonObject) -> Tool:
        server = self.session.server
        try:
            parameters, validate = _compiled(json.dumps(shown["inputSchema"]))
        except ValueError as error:
            raise ToolFailure(f"{server}: the schema of its tool '{shown['name']}' is none: {error}") from error
        try:
            return Tool(
                name=server.prefix + shown["name"],
                description=shown["description"],
                parameters=parameters,
                function=self._function(shown["name"]),
                validate=validate,
            )
        except EnvError as error:
            raise EnvError(f"{server}: {error}") from error

    def _function(self, name: str) -> Callable[..., str]:
        session = self.session

        # No parameter of its own: a tool's may have any name.
        def call(**arguments: Any) -> str:
            result = session.call(name, arguments)
            text = result_text(result)
            if result.is_error:
                raise ToolError(text)
            return text

        return call


def _shown(tool: types.Tool) -> JsonObject:
    return {"name": tool.name, "description": tool.description or "", "inputSchema": tool.input_schema}


@lru_cache(maxsize=1024)  # every episode lists the same tools anew
def _compiled(schema: str) -> tuple[JsonObject, Callable[[JsonObject], dict[str, Any]]]:
    """Return a schema without references, and the check of arguments by it; ValueError if it is none."""
    parameters = flat(json.loads(schema))
    return parameters, checker(parameters)


def listing_of(server: McpServer) -> list[JsonObject]:
    """Connect to a server and return its tools as `pin_of` takes them."""
    _check_installed()
    session = McpSession(server)
    open_sessions([session])
    try:
        return [_shown(tool) for tool in session.tools()]
    finally:
        session.close()


def _check_installed() -> None:
    try:
        import mcp  # noqa: F401
    except ImportError as error:
        raise EnvError("MCP servers need an extra: pip install 'agentgrpo[mcp]'") from error
