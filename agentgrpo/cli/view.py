"""`agentgrpo view`: the web inspector, until Ctrl-C.

It starts the server and knows how an episode is forked; what is shown is decided in `agentgrpo.viewer`.
"""

from __future__ import annotations

import asyncio
import os
import webbrowser
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from aiohttp import web
from rich.console import Console
from rich.text import Text

from agentgrpo.errors import UserError
from agentgrpo.viewer.runs import Runs
from agentgrpo.viewer.server import HOST, make_app

PORT = 7420
PORTS = 10  # tried one after the other when none is asked for
GRACE_SECONDS = 0.5  # for open connections, when it is stopped

_REPLAY = "agentgrpo.replay.fork"


def view(root: Path, port: int | None, *, browser: bool) -> None:
    """Serve the inspector until it is interrupted."""
    with suppress(KeyboardInterrupt):
        asyncio.run(_serve(root, port, browser=browser))


async def _serve(root: Path, port: int | None, *, browser: bool) -> None:
    runs = Runs(root)
    runner = web.AppRunner(make_app(runs, fork=_fork), access_log=None, shutdown_timeout=GRACE_SECONDS)
    await runner.setup()
    try:
        url = f"http://{HOST}:{await _listen(runner, port)}"
        _greet(url, len(runs.paths()), root)
        if browser:
            await asyncio.to_thread(webbrowser.open, url)
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


async def _listen(runner: web.AppRunner, port: int | None) -> int:
    """Listen on the port asked for, or on the first free one of ours, and return it: links stay valid that way."""
    wanted = [port] if port is not None else [*range(PORT, PORT + PORTS), 0]
    for number in wanted:
        site = web.TCPSite(runner, HOST, number)
        try:
            await site.start()
        except OSError as error:
            if number == wanted[-1]:
                reason = os.strerror(error.errno or 0)
                raise UserError(f"port {number} of {HOST} cannot be used: {reason}. Choose another.") from error
        else:
            return int(runner.addresses[0][1])
    raise AssertionError("unreachable")


def _greet(url: str, count: int, root: Path) -> None:
    what = f"{count} run{'' if count == 1 else 's'} of {root}"
    line = Text.assemble(("view", "bold"), f"     {url}", (f"   {what}; Ctrl-C ends it", "dim"))
    Console(highlight=False).print(line, soft_wrap=True)


def _fork(run: Path, episode: str, **how: Any) -> Any:
    """Fork an episode; what that needs (torch) is loaded at the first fork."""
    return import_module(_REPLAY).fork(run, episode, **how)
