"""Sessions, one per event loop: a connection belongs to the loop it was opened on, and is closed before that loop ends.

Async tools of all episodes run on one loop, so they share connections; tools called outside a rollout run on another.
Nothing here knows what is requested.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import threading
import weakref
from collections.abc import AsyncGenerator, Callable

import aiohttp

_EXIT_SECONDS = 1.0


class LoopSessions:
    """Makes a session when a loop first needs one, and closes it with the loop, with itself, or at exit.

    Args:
        make: Returns a new session; called on the loop the session is for.
    """

    def __init__(self, make: Callable[[], aiohttp.ClientSession]) -> None:
        self._make = make
        self._held: dict[
            asyncio.AbstractEventLoop, tuple[AsyncGenerator[aiohttp.ClientSession, None], aiohttp.ClientSession]
        ] = {}
        self._is_registered = False

    async def get(self) -> aiohttp.ClientSession:
        """Return the session of the running loop."""
        loop = asyncio.get_running_loop()
        held = self._held.get(loop)
        if held is None or held[1].closed:
            self._forget_closed()
            holder = _hold(self._make)
            held = self._held[loop] = (holder, await anext(holder))
            self._close_at_exit()
        return held[1]

    async def close(self) -> None:
        """Close the session of the running loop, if there is one."""
        held = self._held.pop(asyncio.get_running_loop(), None)
        if held is not None:
            await held[0].aclose()

    def _forget_closed(self) -> None:
        for loop in list(self._held):
            if loop.is_closed():
                del self._held[loop]

    def _close_at_exit(self) -> None:
        # A loop of the main thread ends before the program does, that of a background thread with it.
        if not self._is_registered and threading.current_thread() is not threading.main_thread():
            self._is_registered = True
            atexit.register(_close_all, weakref.ref(self))

    def _close_held(self) -> None:
        for loop, (holder, _) in list(self._held.items()):
            if loop.is_running():
                closing = asyncio.run_coroutine_threadsafe(holder.aclose(), loop)
                with contextlib.suppress(TimeoutError):  # then the operating system closes its connections
                    closing.result(_EXIT_SECONDS)


async def _hold(make: Callable[[], aiohttp.ClientSession]) -> AsyncGenerator[aiohttp.ClientSession, None]:
    """Keep a session open. A generator, because a loop that ends finishes the generators that began on it."""
    session = make()
    try:
        yield session
    finally:
        await session.close()


def _close_all(reference: weakref.ref[LoopSessions]) -> None:
    if (sessions := reference()) is not None:
        sessions._close_held()
