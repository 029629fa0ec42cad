"""MCP servers that tests start, and what they may leave behind."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agentgrpo.tools.mcp.servers import McpServer
from tests.faults.outside import is_alive

HERE = Path(__file__).parent
PATIENCE = 60.0  # seconds, on any machine


def bad(*flags: str, **options: Any) -> McpServer:
    """Return the server that misbehaves on demand; it starts in some milliseconds."""
    command = (sys.executable, "-S", str(HERE / "bad_server.py"), *flags)
    return McpServer(command=command, name="bad", **{"env": ("PIDS",) if "PIDS" in os.environ else (), **options})


def notes(**options: Any) -> McpServer:
    """Return a server that the SDK serves, with an SDK's start of most of a second."""
    return McpServer(command=(sys.executable, str(HERE / "notes_server.py")), name="notes", **options)


def survivors(folder: Path) -> list[int]:
    """Return the processes noted in a folder that are still alive after some patience."""
    end = time.monotonic() + PATIENCE
    while True:
        alive = [int(path.name) for path in folder.iterdir() if is_alive(int(path.name))]
        if not alive or time.monotonic() > end:
            return alive
        time.sleep(0.02)


def noted(folder: Path) -> int:
    """Return how many processes were noted in a folder."""
    return len(list(folder.iterdir()))


def wait_for(folder: Path, count: int) -> None:
    """Wait until so many processes were noted in a folder."""
    end = time.monotonic() + PATIENCE
    while noted(folder) < count:
        assert time.monotonic() < end
        time.sleep(0.01)


@contextmanager
def serving(app: Callable[..., Awaitable[None]]) -> Iterator[str]:
    """Serve an ASGI application in a thread, and give its URL."""
    import uvicorn

    # Named TCP, or asyncio does not switch off Nagle's algorithm, which costs 40 ms a request.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1, ws="none"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
    thread.start()
    try:
        end = time.monotonic() + PATIENCE
        while not server.started and time.monotonic() < end:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        listener.close()
        assert not thread.is_alive()
