"""A session with one MCP server, for code that blocks: an environment in its thread, an author at a prompt.

Sessions live on the library's background loop rather than on a rollout's: that loop may end before an environment is
closed, and a flooding server must not slow it. There each session has one task that enters and leaves the SDK's
contexts (they bind cancellation to their task); requests are tasks of their own, each with a deadline.
It does not know environments, nor what tools mean.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import weakref
from collections.abc import Awaitable, Coroutine, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, TypeVar

from agentgrpo.errors import EnvError, ToolError, ToolFailure, ToolTimeout
from agentgrpo.tooling import background_loop, describe, one_line
from agentgrpo.tools.mcp.http import HttpTransport
from agentgrpo.tools.mcp.servers import McpServer
from agentgrpo.tools.mcp.stdio import GONE_SECONDS, StdioTransport

if TYPE_CHECKING:
    from mcp import ClientSession
    from mcp.types import CallToolResult, ListToolsResult, ReadResourceResult, Tool

T = TypeVar("T")

PING_SECONDS = 5.0  # a server that is alive answers within these, or as soon as it has to answer a call
LEAVE_SECONDS = 2.0  # to say goodbye; then its task is cancelled
_LAST_SECONDS = 0.5  # after which it is cancelled again
MARGIN = 2.0  # seconds beyond all deadlines, before the loop itself is taken for blocked
QUEUE_SECONDS = 600.0  # until it is a server's turn to start
MAX_TOOLS = 1000
_MAX_PAGES = 100

# A server of Python takes a core for most of a second to start: all at once would be late together.
_starts = asyncio.Semaphore(max(2, os.cpu_count() or 1))
_open: weakref.WeakSet[McpSession] = weakref.WeakSet()

for _name in ("client", "mcp", "httpx2"):  # the SDK logs tracebacks; whoever configures logging sees them
    logging.getLogger(_name).addHandler(logging.NullHandler())


class McpSession:
    """A session from `open_sessions` to `close`. Its methods block; any thread may call them, but not the loop's own.

    Every method raises ToolFailure when the server is dead, hung, or does not keep to the protocol.

    Args:
        server: Where it is.
    """

    def __init__(self, server: McpServer) -> None:
        self.server = server
        self._transport = StdioTransport(server) if server.command else HttpTransport(server)
        self._session: ClientSession | None = None
        self._owner: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self._asking: set[asyncio.Future[Any]] = set()  # requests, also those given up and not yet gone
        self._broken = ""
        self._is_hung = False
        self._is_stale = True  # its tools may differ from what was last listed

    @property
    def is_stale(self) -> bool:
        """Whether its tools may have changed since they were listed.

        A server that says that its list can change is asked after every call: what an episode sees does not hang on
        when a notice arrives. One that does not say so, and sends notices all the same, is believed too.
        """
        return self._is_stale

    def tools(self) -> list[Tool]:
        """Ask for its tools."""
        return ask(self._list(), self.server.list_seconds)

    def call(self, name: str, arguments: dict[str, Any]) -> CallToolResult:
        """Call a tool and return what the server answered, errors it reports as a result included.

        Raises:
            ToolError: it does not take these arguments.
            ToolTimeout: the tool takes longer than `call_seconds` and was cancelled; the server is alive.
        """
        return ask(self._call(name, arguments), self.server.call_seconds + self._ping_seconds)

    def read(self, uri: str) -> ReadResourceResult:
        """Read a resource, within `call_seconds`."""
        return ask(self._read(uri), self.server.call_seconds)

    def close(self) -> None:
        """End it. A server that was started for it is gone afterwards, with everything it started."""
        ask(self._close(), LEAVE_SECONDS + GONE_SECONDS)

    def kill(self) -> None:
        """End a server that was started, now and without waiting."""
        self._transport.kill()

    async def open(self) -> None:
        """Connect and shake hands. Programs start a few at a time; what waits for its turn is not late.

        Raises:
            EnvError: what it needs of this machine is missing.
        """
        self.server.check()
        _open.add(self)
        async with _starts if self.server.command else contextlib.nullcontext():
            await self._connect()

    async def _connect(self) -> None:
        ready: asyncio.Future[ClientSession] = asyncio.get_running_loop().create_future()
        self._owner = asyncio.create_task(self._live(ready), name=f"session with {self.server}")
        waiting: set[asyncio.Future[Any]] = {ready, self._owner}
        seconds = self.server.connect_seconds
        try:
            await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not ready.done():
                late = "could not be connected to" if self._owner.done() else f"did not answer within {seconds:g} s"
                failure = await self._failure(late)
                self._owner.cancel()
                await self._close()
        if not ready.done():
            raise failure
        self._session = ready.result()

    async def _live(self, ready: asyncio.Future[ClientSession]) -> None:
        """Be the task that enters and leaves everything."""
        from mcp import ClientSession

        try:
            async with AsyncExitStack() as stack:
                streams = await stack.enter_async_context(self._transport.streams())
                session = await stack.enter_async_context(ClientSession(*streams, message_handler=self._hear))
                # The handshake, not the newer discovery: that has no sessions over HTTP, and an episode needs one.
                await session.initialize()
                ready.set_result(session)
                await self._stop.wait()
        except Exception as error:  # kept for whoever asks next: nobody awaits this task
            self._broken = self._broken or f"broke: {describe(_first(error))}"

    async def _hear(self, message: object) -> None:
        from mcp.types import ToolListChangedNotification

        self._is_stale |= isinstance(message, ToolListChangedNotification)

    async def _list(self) -> list[Tool]:
        from mcp.types import PaginatedRequestParams

        session, tools, cursor = await self._alive(), list[Any](), None
        self._is_stale = False  # what changes while it is listed makes it stale again
        for _ in range(_MAX_PAGES):
            params = PaginatedRequestParams(cursor=cursor) if cursor else None
            page: ListToolsResult = await self._given(session.list_tools(params=params), self.server.list_seconds)
            tools += page.tools
            cursor = page.next_cursor
            if cursor is None:
                return tools
            if len(tools) > MAX_TOOLS:
                break
        raise ToolFailure(f"{self.server} lists more than {MAX_TOOLS} tools, or has no end of pages")

    async def _call(self, name: str, arguments: dict[str, Any]) -> CallToolResult:
        from mcp.types import CallToolRequest, CallToolRequestParams, CallToolResult

        session = await self._alive()
        # Not session.call_tool: it checks the answer by the server's own schema, whose patterns may never end.
        request = CallToolRequest(params=CallToolRequestParams(name=name, arguments=arguments))
        try:
            return await self._asked(session.send_request(request, CallToolResult), self.server.call_seconds)
        except ToolTimeout:
            await self._check_awake(session)
            raise ToolTimeout(f"{name} did not finish within {self.server.call_seconds:g} s and was stopped") from None
        finally:
            self._is_stale |= self._can_change(session)

    async def _read(self, uri: str) -> ReadResourceResult:
        session = await self._alive()
        return await self._given(session.read_resource(uri), self.server.call_seconds)

    async def _given(self, request: Awaitable[T], seconds: float) -> T:
        """Await what no model asked for: whatever is said instead of it is a failure."""
        try:
            return await self._asked(request, seconds)
        except (ToolError, ToolTimeout) as error:
            raise ToolFailure(f"{self.server} did not give what was asked for: {error}") from error

    async def _check_awake(self, session: ClientSession) -> None:
        try:
            await self._asked(session.send_ping(), self._ping_seconds)
        except (ToolError, ToolTimeout) as error:
            self._is_hung = True
            self._transport.kill()
            raise ToolFailure(
                f"{self.server} hangs: no answer within {self.server.call_seconds:g} s, nor to a ping within "
                f"{self._ping_seconds:g} s"
            ) from error

    @property
    def _ping_seconds(self) -> float:
        return min(PING_SECONDS, self.server.call_seconds)

    async def _asked(self, request: Awaitable[T], seconds: float) -> T:
        """Await an answer.

        Raises:
            ToolTimeout: none came.
            ToolError: what was asked for is refused as invalid.
            ToolFailure: anything else.
        """
        from mcp import MCPError
        from mcp.types import CONNECTION_CLOSED, INVALID_PARAMS

        try:
            return await self._within(request, seconds)
        except ToolTimeout:
            raise
        except MCPError as error:
            if error.code == INVALID_PARAMS:
                raise ToolError(error.message) from error
            if error.code == CONNECTION_CLOSED:
                raise await self._failure("closed the connection") from error
            raise ToolFailure(f"{self.server} answered with error {error.code}: {one_line(error.message)}") from error
        except Exception as error:
            raise ToolFailure(f"{self.server} does not keep to the protocol: {describe(_first(error))}") from error

    async def _within(self, request: Awaitable[T], seconds: float) -> T:
        """Await an answer in a task that is not waited for once it was given up.

        The SDK tells the server of a request that is cancelled, for which a hung one lets it wait for seconds.
        """
        asking = asyncio.ensure_future(request)
        self._asking.add(asking)
        asking.add_done_callback(self._forget)
        try:
            await asyncio.wait({asking}, timeout=seconds)
            if asking.done():
                return asking.result()
            raise ToolTimeout(f"{self.server} did not answer within {seconds:g} s")
        finally:
            asking.cancel()

    def _forget(self, asking: asyncio.Future[Any]) -> None:
        self._asking.discard(asking)
        if not asking.cancelled():
            asking.exception()  # it was heard, or nobody waits for it any more

    async def _alive(self) -> ClientSession:
        if self._session is None or self._owner is None or self._owner.done():
            raise await self._failure("has no open session")
        return self._session

    async def _failure(self, what: str) -> ToolFailure:
        """Return what became of the server, in the words of whoever knows it best."""
        why = await self._transport.fate()
        if self._broken:
            what = self._broken if not why else what
        return ToolFailure(f"{self.server} {what}" + (f": {why}" if why else ""))

    def _can_change(self, session: ClientSession) -> bool:
        tools = session.server_capabilities.tools if session.server_capabilities is not None else None
        return bool(tools is not None and tools.list_changed)

    async def _close(self) -> None:
        self._session = None
        owner, self._owner = self._owner, None
        if owner is not None:
            self._stop.set()
            # Once to end the wait, once more to end the farewell of what hangs.
            for seconds in (0.0 if self._is_hung else LEAVE_SECONDS, _LAST_SECONDS, _LAST_SECONDS):
                await asyncio.wait({owner}, timeout=seconds)
                if owner.done():
                    break
                owner.cancel()
        self._transport.kill()
        await self._transport.gone()
        _open.discard(self)


def open_sessions(sessions: Sequence[McpSession]) -> None:
    """Open sessions at the same time; if one cannot be opened, none is.

    Raises:
        ToolFailure: a server could not be started, or did not shake hands in time.
    """
    seconds = max((session.server.connect_seconds for session in sessions), default=0.0)
    ask(_open_all(sessions), QUEUE_SECONDS + seconds + LEAVE_SECONDS + GONE_SECONDS)


async def _open_all(sessions: Sequence[McpSession]) -> None:
    ends = await asyncio.gather(*(session.open() for session in sessions), return_exceptions=True)
    failures = [end for end in ends if isinstance(end, BaseException)]
    if failures:
        await asyncio.gather(*(session._close() for session in sessions))
        raise failures[0]


def ask(work: Coroutine[Any, Any, T], seconds: float) -> T:
    """Run a coroutine on the background loop and block until it has ended, for `seconds` and a margin at most.

    Raises:
        ToolFailure: the loop is blocked.
        EnvError: this is that loop, which would wait for itself.
    """
    loop = background_loop()
    with contextlib.suppress(RuntimeError):
        if asyncio.get_running_loop() is loop:
            work.close()
            raise EnvError("a session with an MCP server cannot be used in an `async def` tool: make that tool a `def`")
    future = asyncio.run_coroutine_threadsafe(work, loop)
    try:
        return future.result(seconds + MARGIN)
    except TimeoutError as error:
        raise ToolFailure(f"no end after {seconds + MARGIN:g} s: the background loop is blocked") from error
    finally:
        future.cancel()


def _first(error: BaseException) -> BaseException:
    """Return the first error of a group that is no consequence of another."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _kill_all() -> None:
    for session in list(_open):
        session.kill()


atexit.register(_kill_all)
