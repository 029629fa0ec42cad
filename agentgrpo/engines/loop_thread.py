"""An event loop in a thread of its own, which any other thread or loop may ask."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class LoopThread:
    """A running event loop; the program may end without it.

    Args:
        name: The thread's.
    """

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Start a coroutine there; cancelling the future cancels it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def wait(self, work: Coroutine[Any, Any, T], seconds: float | None = None) -> T:
        """Run a coroutine there and block until it has ended.

        Raises:
            TimeoutError: it did not within so many seconds; it is cancelled.
        """
        asked = self.submit(work)
        try:
            return asked.result(seconds)
        except TimeoutError:
            asked.cancel()
            raise

    def close(self, seconds: float) -> None:
        """End the loop; one that is blocked for longer than so many seconds is left to end with the program."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(seconds)
        if not self._thread.is_alive():
            self._loop.close()
