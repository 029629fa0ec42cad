"""An environment behind OpenEnv's WebSocket protocol: every connection is a session with an environment of its own.

It does not know who connects: it listens where it is told to, and has no accounts. What a client may see is what an
agent sees; the environment's state stays here.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from ipaddress import ip_address
from urllib.parse import urlsplit

from aiohttp import WSMsgType, web

from agentgrpo.errors import EpisodeError, UserError
from agentgrpo.registry import EnvSource
from agentgrpo.rollout.isolation import EnvHost, EnvHosts
from agentgrpo.types import Json, JsonObject

HEARTBEAT = 30.0  # seconds, after which a client that is gone gives its place back
_ACTION: JsonObject = {
    "title": "Action",
    "type": "object",
    "description": "A tool call, a message without calls, or a message as a chat model writes it.",
    "properties": {
        "type": {"enum": ["call_tool", "list_tools", "message"], "default": "message"},
        "tool_name": {"type": "string"},
        "arguments": {"type": "object"},
        "content": {"type": "string"},
        "tool_calls": {"type": "array", "items": {"type": "object"}},
        "metadata": {"type": "object"},
    },
}
_OBSERVATION: JsonObject = {
    "title": "Observation",
    "type": "object",
    "properties": {"text": {"type": "string"}, "messages": {"type": "array"}, "tools": {"type": "array"}},
}
_STATE: JsonObject = {
    "title": "State",
    "type": "object",
    "properties": {"episode_id": {"type": ["string", "null"]}, "step_count": {"type": "integer"}},
}

_ERRORS = {"tool_error": "execution_error", "timeout": "timeout", "unknown_tool": "tool_not_found"}


class EnvServer:
    """Serves an environment.

    Args:
        source: Where environments come from; each session has one, isolated as it declares.
        capacity: Most sessions at once.
        seconds: Deadline of a reset or step.
    """

    def __init__(self, source: EnvSource, *, capacity: int = 128, seconds: float = 60.0) -> None:
        self.source, self.capacity, self.seconds = source, capacity, seconds
        self._sockets: set[web.WebSocketResponse] = set()
        self._hosts: EnvHosts | None = None

    def app(self) -> web.Application:
        """Return the server's application."""
        app = web.Application()
        app.router.add_get("/ws", self._session)
        about = {"name": self.source.id, "description": _about(self.source), "version": version("agentgrpo")}
        pages: dict[str, JsonObject] = {
            "/health": {"status": "healthy"},
            "/metadata": about,
            "/schema": {"action": _ACTION, "observation": _OBSERVATION, "state": _STATE},
        }
        for path, page in pages.items():
            app.router.add_get(path, _page(page))
        app.on_startup.append(self._start)
        app.on_shutdown.append(self._stop)
        return app

    async def _start(self, app: web.Application) -> None:
        self._hosts = EnvHosts(self.source, concurrency=self.capacity, seconds=self.seconds)

    async def _stop(self, app: web.Application) -> None:
        for socket in list(self._sockets):
            await socket.close()
        if self._hosts is not None:
            self._hosts.close()

    async def _session(self, request: web.Request) -> web.StreamResponse:
        origin = request.headers.get("Origin")
        if origin is not None and not _is_own(origin, request.host):  # a web page elsewhere, in a browser here
            raise web.HTTPForbidden(text="a page of another origin may not connect")
        socket = web.WebSocketResponse(heartbeat=HEARTBEAT)
        await socket.prepare(request)
        if len(self._sockets) >= self.capacity:
            full = f"all {self.capacity} sessions are in use"
            await socket.send_json(_error("CAPACITY_REACHED", full, max_sessions=self.capacity))
            await socket.close()
            return socket
        assert self._hosts is not None
        self._sockets.add(socket)
        session = _Session(self._hosts)
        try:
            await _talk(socket, session)
        finally:
            self._sockets.discard(socket)
            await session.close()
        return socket


async def _talk(socket: web.WebSocketResponse, session: _Session) -> None:
    async for received in socket:
        if received.type is not WSMsgType.TEXT:
            continue
        answer = await session.answer(received.data)
        if answer is None or socket.closed:
            break
        await socket.send_str(json.dumps(answer, ensure_ascii=False))
    await socket.close()


class _Refused(Exception):
    """A message that the protocol does not have, with its code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class _Session:
    """One client's environment and where it stands."""

    def __init__(self, hosts: EnvHosts) -> None:
        self._hosts = hosts
        self._host: EnvHost | None = None
        self._episode: str | None = None
        self._steps, self._is_over = 0, True
        self._tools: list[JsonObject] = []

    async def answer(self, text: str) -> JsonObject | None:
        """Return the answer to a message, whatever it is; None ends the session."""
        try:
            kind, data = _read(text)
            if kind == "close":
                return None
            if kind == "state":
                return {"type": "state", "data": {"episode_id": self._episode, "step_count": self._steps}}
            return {"type": "observation", "data": await (self._reset(data) if kind == "reset" else self._step(data))}
        except _Refused as error:
            return _error(error.code, str(error))
        except (EpisodeError, UserError) as error:
            return _error("EXECUTION_ERROR", str(error))

    async def close(self) -> None:
        """Give the environment back."""
        host, self._host = self._host, None
        if host is not None:
            await host.close()

    async def _reset(self, data: JsonObject) -> JsonObject:
        seed, task, episode = data.get("seed"), data.get("task"), data.get("episode_id")
        if not isinstance(seed, int | None) or isinstance(seed, bool) or (seed or 0) < 0:
            raise _Refused("VALIDATION_ERROR", f"seed is {seed!r}, expected an integer of at least 0")
        if not isinstance(task, str | dict | None):
            raise _Refused("VALIDATION_ERROR", "task is neither the id of a task nor a row")
        if self._host is None or self._host.lost is not None:
            self._host = self._hosts.make()
        options = None if task is None else {"task_id" if isinstance(task, str) else "task": task}
        obs, info = await self._host.reset(seed=seed, options=options)
        self._episode, self._steps, self._is_over = None if episode is None else str(episode), 0, False
        self._tools = _as_mcp(info.get("tools") or [])
        return _data({"text": obs, "messages": info.get("messages"), "tools": self._tools})

    async def _step(self, data: JsonObject) -> JsonObject:
        kind = data.get("type", "message")
        if kind == "list_tools":
            return _data({"tools": self._tools})
        if self._host is None or self._is_over:
            raise _Refused("EXECUTION_ERROR", "no episode is under way: reset first")
        action = _action(kind, data, self._steps)
        text = action["content"] if self._host.action_format == "text" else json.dumps(action)
        obs, reward, terminated, truncated, info = await self._host.step(text)
        self._steps, self._is_over = self._steps + 1, terminated or truncated
        tools = self._tools if info.get("tools") is None else _as_mcp(info["tools"])
        is_changed, self._tools = tools != self._tools, tools
        messages = info.get("messages") or []
        seen: JsonObject = {"text": obs, "messages": messages, "tools": tools}
        if kind == "call_tool":  # its observation has no tools: by them OpenEnv's own client tells a list of tools
            seen = {"tool_name": data["tool_name"], **_called(messages, obs), "tools_changed": is_changed}
        return _data({**seen, "reward_terms": info.get("reward_terms")}, reward, self._is_over)


def _read(text: str) -> tuple[str, JsonObject]:
    try:
        message: Json = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _Refused("INVALID_JSON", f"not valid JSON: {error}") from error
    kind = message.get("type") if isinstance(message, dict) else None
    if kind not in ("reset", "step", "state", "close"):
        raise _Refused("UNKNOWN_TYPE", f"the type is {kind!r}, expected reset, step, state or close")
    data = message.get("data", {})
    if not isinstance(data, dict):
        raise _Refused("VALIDATION_ERROR", "data is no object")
    return kind, data


def _action(kind: Json, data: JsonObject, number: int) -> JsonObject:
    """Return an action of the protocol as the canonical one."""
    if kind == "call_tool":
        name, arguments = data.get("tool_name"), data.get("arguments", {})
        if not isinstance(name, str) or not isinstance(arguments, dict):
            raise _Refused("VALIDATION_ERROR", "call_tool takes a tool_name and an object of arguments")
        return {"content": "", "tool_calls": [{"id": f"call_{number}", "name": name, "arguments": arguments}]}
    content, calls = data.get("content", ""), data.get("tool_calls", [])
    if kind != "message" or not isinstance(content, str) or not isinstance(calls, list):
        raise _Refused("VALIDATION_ERROR", "expected type call_tool, list_tools or message, with text as content")
    return {"content": content, "tool_calls": calls}


def _called(messages: list[JsonObject], obs: str) -> JsonObject:
    """Return what a call led to, in OpenEnv's words."""
    last = messages[-1] if messages else {"content": obs}
    if not last.get("is_error"):
        return {"result": last["content"], "error": None}
    try:
        told = json.loads(last["content"])["error"]
        kind, message = str(told["type"]), str(told["message"])
    except (ValueError, TypeError, KeyError):
        kind, message = "tool_error", str(last["content"])
    return {"result": None, "error": {"error_type": _ERRORS.get(kind, "invalid_args"), "message": message}}


def _as_mcp(tools: list[JsonObject]) -> list[JsonObject]:
    functions = [tool["function"] for tool in tools]
    return [
        {"name": f["name"], "description": f.get("description") or "", "input_schema": f.get("parameters") or {}}
        for f in functions
    ]


def _data(observation: JsonObject, reward: float | None = None, done: bool = False) -> JsonObject:
    filled = {name: value for name, value in observation.items() if value is not None}
    return {"observation": filled, "reward": reward, "done": done}


def _error(code: str, message: str, **more: Json) -> JsonObject:
    return {"type": "error", "data": {"message": message, "code": code, **more}}


def _is_own(origin: str, host: str) -> bool:
    """Return whether an origin is this server; a name is not enough, for a page can make its own lead here."""
    try:
        parts = urlsplit(origin)
        if parts.netloc != host or parts.hostname == "localhost":
            return parts.netloc == host
        ip_address(parts.hostname or "")
    except ValueError:
        return False
    return True


def _about(source: EnvSource) -> str:
    return (source.env_class.__doc__ or source.id).strip().splitlines()[0]


def _page(page: JsonObject) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response(page)

    return answer
