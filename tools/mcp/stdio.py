"""The transport of MCP servers that talk on their standard input and output, bounded where a server is not.

Not the SDK's: that buffers a line of any length, kills a process group but not what left it, and loses the process when
its task is cancelled in mid-shutdown. It does not know what the messages mean.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import IO, TYPE_CHECKING, Any, TypeAlias

from agentgrpo.tooling import one_line
from agentgrpo.tools.mcp.process import ServerProcess
from agentgrpo.tools.mcp.servers import McpServer

if TYPE_CHECKING:
    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
    from mcp.shared.message import SessionMessage

Streams: TypeAlias = tuple[Any, Any]  # of messages from the server, and to it

MAX_LINE = 2**22  # bytes of one message
MAX_FLOOD = 2**25  # bytes a server may say before it is asked again
MAX_NOTICES = 5_000  # messages, likewise
GRACE = 1.0  # seconds to end by itself once its input has ended
GONE_SECONDS = 5.0  # to be dead after it was killed
_POLL = 0.005
_LAST_WORDS = 2000  # bytes of its standard error that are kept
_SHOWN_WORDS = 300


class StdioTransport:
    """Starts a server, speaks with it, ends it."""

    def __init__(self, server: McpServer) -> None:
        self._server = server
        self._process: ServerProcess | None = None
        self._flaw = ""
        self._flood = self._notices = 0  # bytes and messages since it was last asked
        self._words = b""

    @asynccontextmanager
    async def streams(self) -> AsyncIterator[Streams]:
        """Start the server; give the streams of messages from it and to it; end it."""
        import anyio

        self._process = process = ServerProcess(self._server.command, self._server.environment())
        try:
            reader, writer = await asyncio.open_unix_connection(sock=process.socket, limit=MAX_LINE)
            heard: Any = anyio.create_memory_object_stream(0)
            said: Any = anyio.create_memory_object_stream(0)
            try:
                with heard[0], heard[1], said[0], said[1]:
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(self._listen, reader, heard[0])
                        tasks.start_soon(self._speak, said[1], writer)
                        tasks.start_soon(self._overhear, process.stderr)
                        yield heard[1], said[0]
                        await self._let_end(process, writer)
                        tasks.cancel_scope.cancel()
            finally:
                writer.transport.abort()
        finally:
            process.kill()
            process.socket.close()
            process.stderr.close()

    def kill(self) -> None:
        """End the server without waiting for it, from any thread."""
        if self._process is not None:
            self._process.kill()

    async def gone(self) -> None:
        """Wait until nothing of it is left, or for `GONE_SECONDS`."""
        if self._process is not None:
            await asyncio.wait({asyncio.wrap_future(self._process.gone)}, timeout=GONE_SECONDS)

    async def fate(self) -> str:
        """Return what became of it, in words, or an empty string while it runs."""
        if self._process is None:
            return ""
        for _ in range(int(0.2 / _POLL)):  # its guard first ends what it started
            if self._flaw or self._process.status is not None:
                break
            await asyncio.sleep(_POLL)
        if self._flaw:
            return self._flaw
        if self._process.status is None:
            return ""
        words = one_line(self._words.decode("utf-8", "replace")[-_SHOWN_WORDS:])
        return f"it ended with status {self._process.status}" + (f"; its last words: {words}" if words else "")

    async def _listen(self, reader: asyncio.StreamReader, heard: MemoryObjectSendStream[SessionMessage]) -> None:
        import anyio

        with heard, contextlib.suppress(ConnectionError, anyio.BrokenResourceError, anyio.ClosedResourceError):
            while line := await self._line(reader):
                if (message := _parse(line)) is not None:
                    await heard.send(message)

    async def _line(self, reader: asyncio.StreamReader) -> bytes:
        try:
            line = await reader.readline()
        except ValueError:
            self._flaw = f"it wrote a line of more than {MAX_LINE:,} bytes"
            return b""
        self._flood += len(line)
        self._notices += 1
        if self._flood > MAX_FLOOD or self._notices > MAX_NOTICES:
            self._flaw = f"it wrote {self._notices:,} messages, {self._flood:,} bytes, nobody asked for"
            return b""
        return line

    async def _speak(self, said: MemoryObjectReceiveStream[SessionMessage], writer: asyncio.StreamWriter) -> None:
        with said, contextlib.suppress(ConnectionError):
            async for message in said:
                self._flood = self._notices = 0
                text = message.message.model_dump_json(by_alias=True, exclude_unset=True)
                writer.write(text.encode() + b"\n")
                await writer.drain()

    async def _overhear(self, stderr: IO[bytes]) -> None:
        """Keep its last words; read the others too, or it would stand still once the pipe is full."""
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), stderr)
        try:
            while words := await reader.read(2**16):
                self._words = (self._words + words)[-_LAST_WORDS:]
        finally:
            transport.close()

    async def _let_end(self, process: ServerProcess, writer: asyncio.StreamWriter) -> None:
        if self._flaw:
            return
        with contextlib.suppress(OSError):
            writer.write_eof()
        for _ in range(int(GRACE / _POLL)):
            if process.status is not None:
                break
            await asyncio.sleep(_POLL)


def _parse(line: bytes) -> SessionMessage | None:
    """Return the message of a line; None for what is none: many servers print to their output by mistake."""
    from mcp.shared.message import SessionMessage
    from mcp.types import jsonrpc_message_adapter

    try:
        return SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False))
    except ValueError:
        return None
