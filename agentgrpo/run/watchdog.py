"""Watches whether a run moves: says once what is waited for, and stops a run that does not move any more.

It looks from a thread of its own, so that it also sees an event loop that is blocked. What counts as moving, and who
waits for what, is told to `Activity` by those who do it.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType

from agentgrpo.activity import Activity, Wait
from agentgrpo.config.run import TrainConfig
from agentgrpo.errors import RunError

GRACE = 30.0  # seconds between the order to stop and the end of the program
_TICK = 1.0
_ENGINE_KINDS = ("generate", "publish", "retire")
_OURS = ("MainThread", "agentgrpo", "asyncio_")  # what threads of a run are called


class Watchdog:
    """Guards the block it is the async context of.

    Args:
        activity: What the run says of itself.
        folder: Where `stall-<time>.txt` is written.
        config: Without progress for `stall_seconds` it says what is waited for; for `stop_stalled_seconds`, the block
            is cancelled and RunError raised in its place.
        tell: Takes a line for the screen.
        last_words: Takes the cause when not even that is possible (something blocks the event loop of the main
            thread for good) and the program is ended, with exit status 1.
    """

    def __init__(
        self,
        activity: Activity,
        folder: Path,
        config: TrainConfig,
        *,
        tell: Callable[[str], None],
        last_words: Callable[[str], None] = lambda cause: None,
    ) -> None:
        self.activity, self.folder = activity, folder
        self.seconds, self.stop_seconds = config.stall_seconds, config.stop_stalled_seconds
        self._tell, self._last_words = tell, last_words
        self._idle = 0.0
        self._cause: str | None = None
        self._is_answering = True  # whether the event loop has run since it was last asked to
        self._ticks_unanswered = 0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="agentgrpo-watchdog", daemon=True)

    async def __aenter__(self) -> Watchdog:
        task = asyncio.current_task()
        assert task is not None
        self._loop, self._task, self._loop_thread = asyncio.get_running_loop(), task, threading.current_thread()
        self._thread.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()
        self._thread.join()  # one that is still ending when Python does can take the process down
        if self._cause is not None and error is not None:
            self._task.uncancel()
            raise RunError(self._cause) from error

    def _watch(self) -> None:
        tick = min(_TICK, self.seconds / 5)
        beats, clock, has_told = self.activity.beats, time.monotonic(), False
        while not self._is_over.wait(tick):
            now = time.monotonic()
            # A program that was suspended has not stalled: what it slept does not count.
            self._idle += min(now - clock, 2 * tick)
            clock = now
            if self.activity.beats != beats:
                beats, self._idle = self.activity.beats, 0.0
                if has_told:
                    self._tell(f"{self.activity.stage} goes on")
                has_told = False
            self._poke()
            if self._idle >= self.stop_seconds:
                return self._stop()
            if self._idle >= self.seconds and not has_told:
                has_told = True
                self._tell(self._report())
        return None

    def _poke(self) -> None:
        self._ticks_unanswered = 0 if self._is_answering else self._ticks_unanswered + 1
        if self._is_answering:
            self._is_answering = False
            self._call_in_loop(self._answer)

    def _answer(self) -> None:
        self._is_answering = True

    def _call_in_loop(self, call: Callable[[], object]) -> None:
        try:
            self._loop.call_soon_threadsafe(call)
        except RuntimeError:  # it has closed: the run is over
            self._is_over.set()

    def _stop(self) -> None:
        self._cause = f"stopped: {self._report()}"
        self._call_in_loop(self._task.cancel)
        if self._is_over.wait(GRACE) or self._loop_thread is not threading.main_thread():
            return
        self._last_words(self._cause)
        print(f"agentgrpo: {self._cause}", file=sys.stderr, flush=True)
        os._exit(1)  # nothing in Python can interrupt what blocks it; what was acknowledged is on the disk

    def _report(self) -> str:
        """Write down everything, and return the line that matters."""
        waits, frames = self.activity.pending(), sys._current_frames()
        line = f"no progress for {self._idle:.0f} s in {self.activity.stage}: {summarize(waits)}"
        culprit = self._culprit(waits, frames)
        if culprit:
            line = f"{line}; {culprit}"
        path = self.folder / time.strftime("stall-%Y%m%d-%H%M%S.txt")
        try:
            path.write_text("\n".join([line, "", *self._details(waits, frames), ""]), encoding="utf-8")
        except OSError as error:
            return f"{line} (details could not be written: {error})"
        return f"{line}. Details: {path}"

    def _culprit(self, waits: list[Wait], frames: dict[int, FrameType]) -> str | None:
        """Name the thread that everything waits for, if it is one of ours, and where it is."""
        if self._ticks_unanswered > 1:
            return f"the event loop is blocked at {_place(frames.get(self._loop_thread.ident or 0))}"
        if waits and waits[0].kind in _ENGINE_KINDS:
            engines = [thread for thread in threading.enumerate() if thread.name == "agentgrpo-engine"]
            return f"the engine's thread is at {_place(frames.get(engines[-1].ident or 0))}" if engines else None
        return None

    def _details(self, waits: list[Wait], frames: dict[int, FrameType]) -> list[str]:
        now = time.monotonic()
        try:
            tasks = str(len(asyncio.all_tasks(self._loop)))
        except RuntimeError:  # they changed while they were counted
            tasks = "unknown"
        troubles = ", ".join(f"{name} {count}" for name, count in self.activity.troubles.items())
        return [
            f"stage: {self.activity.stage}",
            f"asyncio tasks: {tasks}",
            f"troubles: {troubles or 'none'}",
            f"waiting ({len(waits)}), the longest first:",
            *(f"  {now - wait.since:8.1f} s  {wait}" for wait in waits),
            *_stacks(frames),
        ]


def summarize(waits: list[Wait]) -> str:
    """Return how many wait for what, and who has waited longest."""
    if not waits:
        return "nothing is waited for"
    kinds = Counter(wait.kind for wait in waits)
    counts = ", ".join(f"{count} {'wait' if count > 1 else 'waits'} for {kind}" for kind, count in kinds.most_common())
    return f"{counts}; the longest, {waits[0]}, for {time.monotonic() - waits[0].since:.0f} s"


def _place(frame: FrameType | None) -> str:
    if frame is None:
        return "an unknown place"
    code = frame.f_code
    return f"{Path(code.co_filename).name}:{frame.f_lineno} in {code.co_name}"


def _stacks(frames: dict[int, FrameType]) -> list[str]:
    """Return the stacks of our threads, equal ones once."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    stacks: dict[str, list[str]] = {}
    for ident, frame in frames.items():
        name = names.get(ident, "")
        if name.startswith(_OURS) and name != "agentgrpo-watchdog":
            stacks.setdefault("".join(traceback.format_stack(frame)), []).append(name)
    return [f"\n{len(found)} x {found[0]}:\n{stack.rstrip()}" for stack, found in stacks.items()]
