"""Tells open pages when a run has changed: they ask again for what they show.

A page holds one connection per run it shows (server-sent events). It is told that something changed, not what: looking
at four files takes some microseconds, and what a page shows is cheap to ask for.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress

from aiohttp import web

from agentgrpo.viewer.runs import OpenRun

LOOK_SECONDS = 0.2
KEEP_SECONDS = 15.0  # between signs of life, so that both ends notice when the other is gone


def pulse(run: OpenRun) -> list[int]:
    """Return numbers that change when a run's episodes, metrics or record do."""
    files = run.directory
    log = files.episodes.with_name(f"{files.episodes.name}-wal")  # where a commit is written to first
    stats = [path.stat() for path in (files.episodes, log, files.metrics, files.record) if path.is_file()]
    return [number for stat in stats for number in (stat.st_size, stat.st_mtime_ns)]


async def follow(request: web.Request, run: OpenRun) -> web.StreamResponse:
    """Send an event at once, and whenever the run has changed, until the page is closed or the server stops."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})
    await response.prepare(request)
    known: list[int] | None = None
    quiet = 0.0
    with suppress(ConnectionError):
        while True:
            found = pulse(run)
            if found != known:
                known, quiet = found, 0.0
                await response.write(f"data: {json.dumps(found)}\n\n".encode())
            elif quiet >= KEEP_SECONDS:
                quiet = 0.0
                await response.write(b": still here\n\n")
            await asyncio.sleep(LOOK_SECONDS)
            quiet += LOOK_SECONDS
    return response
