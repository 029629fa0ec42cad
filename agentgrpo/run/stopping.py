"""How a run is stopped from outside: Ctrl-C and SIGTERM become one orderly end, in bounded time.

It knows signals and deadlines, not what a run has to keep.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

GRACE_SECONDS = 5.0  # for the run to end by itself; then what it has to keep is kept without it


class Stopping:
    """Takes over SIGINT and SIGTERM while it is open. The first asks the run to end, a second ends the process.

    Where no handler can be set (outside the main thread) and where the signal is ignored it changes nothing.

    Args:
        seconds: How long the run may take to end before `rescue` is called from a thread and the process ended.
    """

    def __init__(self, *, seconds: float = GRACE_SECONDS) -> None:
        self.seconds = seconds
        self.number: int | None = None  # of the signal that came
        self._is_shared = _has_running_loop()  # a notebook: the process is not ours to end
        self._cancel: Callable[[], object] | None = None
        self._rescue: Callable[[], object] | None = None
        self._previous: dict[int, Any] = {}
        self._watch: threading.Thread | None = None
        self._came, self._ended = threading.Event(), threading.Event()

    def __enter__(self) -> Stopping:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._came.set()
        if self._watch is not None:
            self._watch.join()  # a thread that is still ending when Python does can take the process down
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def attach(self, rescue: Callable[[], object]) -> None:
        """Let signals cancel the current task from now on; `rescue` is what must happen even if it does not end."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        self._rescue = rescue
        # Started now: inside a signal handler a thread cannot be started safely.
        self._watch = threading.Thread(target=self._enforce, name="agentgrpo-stop", daemon=True)
        self._watch.start()
        self._cancel = lambda: loop.call_soon_threadsafe(task.cancel)

    def outcome(self) -> BaseException | None:
        """Return what the signal that came means to the caller, None when none came."""
        if self.number is None:
            return None
        return KeyboardInterrupt() if self.number == signal.SIGINT else SystemExit(128 + self.number)

    def exit_process(self) -> None:
        """End the process with the signal's exit code, whatever its threads do; a shared process is left alone."""
        if self.number is not None and not self._is_shared:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError, ValueError):  # closed, or its reader is gone
                    stream.flush()
            os._exit(128 + self.number)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        is_second, self.number = self.number is not None, number
        if is_second:
            self.exit_process()
        if is_second or self._cancel is None:
            outcome = self.outcome()
            assert outcome is not None
            raise outcome
        self._came.set()
        with contextlib.suppress(RuntimeError):  # its loop has closed: it has ended
            self._cancel()

    def _enforce(self) -> None:
        self._came.wait()
        if not self._ended.wait(self.seconds) and self._rescue is not None:
            self._rescue()
            self.exit_process()


def _has_running_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
