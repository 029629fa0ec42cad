"""An inspector that serves in a thread of its own, so that tests can ask it or look at it in a browser."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from types import TracebackType

from aiohttp import web

from agentgrpo.viewer.forking import Fork
from agentgrpo.viewer.runs import Runs
from agentgrpo.viewer.server import HOST, make_app

SECONDS = 20.0


class Served:
    """Serves the runs of a folder until it is closed; `url` is where. Port 0 is a free one."""

    def __init__(self, root: Path, *, fork: Fork | None = None, port: int = 0) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="served", daemon=True)
        self._thread.start()
        self._runner = web.AppRunner(make_app(Runs(root), fork=fork), access_log=None, shutdown_timeout=0.1)
        asyncio.run_coroutine_threadsafe(self._begin(port), self._loop).result(SECONDS)
        self.port = int(self._runner.addresses[0][1])
        self.url = f"http://{HOST}:{self.port}"

    async def _begin(self, port: int) -> None:
        await self._runner.setup()
        await web.TCPSite(self._runner, HOST, port).start()

    async def _end(self) -> None:
        await self._runner.cleanup()
        left = asyncio.all_tasks() - {asyncio.current_task()}  # streams whose pages were closed just now
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(SECONDS)
        self._loop.close()

    def __enter__(self) -> Served:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
