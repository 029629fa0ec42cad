"""The transport of MCP servers that talk Streamable HTTP: the SDK's, with a bound on what a server may send.

It does not know what the messages mean. No proxy is taken from the environment, and no redirect leaves the origin.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from agentgrpo.tools.mcp.servers import McpServer
from agentgrpo.tools.mcp.stdio import MAX_FLOOD, MAX_LINE, Streams

if TYPE_CHECKING:
    from httpx2 import AsyncClient, Response


class HttpTransport:
    """Speaks with a server that runs already."""

    def __init__(self, server: McpServer) -> None:
        self._server = server
        self._flaw = ""

    @asynccontextmanager
    async def streams(self) -> AsyncIterator[Streams]:
        """Give the streams of messages from the server and to it; end the session."""
        from mcp.client.streamable_http import streamable_http_client

        async with self._client() as client:
            connection = streamable_http_client(self._server.url, http_client=client, max_sse_event_size=MAX_LINE)
            async with connection as streams:
                yield streams

    def kill(self) -> None:
        """Do nothing: the server is not ours."""

    async def gone(self) -> None:
        """Return: nothing of a session is left here."""

    async def fate(self) -> str:
        """Return what was wrong with what it sent, or an empty string."""
        return self._flaw

    def _client(self) -> AsyncClient:
        import httpx2

        # Every wait has a deadline where it is asked for; the stream of notices may be silent for as long as it likes.
        timeout = httpx2.Timeout(self._server.connect_seconds, read=None)
        headers = {"Accept-Encoding": "identity"} | self._server.header_values()
        hooks = {"response": [self._bound]}
        return httpx2.AsyncClient(headers=headers, timeout=timeout, trust_env=False, event_hooks=hooks)

    async def _bound(self, response: Response) -> None:
        """Let a response be read up to `MAX_FLOOD` bytes."""
        import httpx2

        if response.headers.get("content-encoding", "identity") != "identity":  # could be a bomb
            self._flaw = "it sent a compressed answer although it was asked not to"
            raise httpx2.ReadError(self._flaw)
        whole, spend = response.stream, self._spend

        class Bounded(httpx2.AsyncByteStream):
            async def __aiter__(self) -> AsyncIterator[bytes]:
                read = 0
                assert isinstance(whole, httpx2.AsyncByteStream)
                async for chunk in whole:
                    read += len(chunk)
                    spend(read)
                    yield chunk

            async def aclose(self) -> None:
                assert isinstance(whole, httpx2.AsyncByteStream)
                await whole.aclose()

        response.stream = Bounded()

    def _spend(self, read: int) -> None:
        import httpx2

        if read > MAX_FLOOD:
            self._flaw = f"it answered one request with more than {MAX_FLOOD:,} bytes"
            raise httpx2.ReadError(self._flaw)
