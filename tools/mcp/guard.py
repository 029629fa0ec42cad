"""Run a program so that nothing it started outlives it, or whoever asked for it.

Run as a script, by its path: it imports nothing of this library, to start in a few milliseconds. Its first argument is
the descriptor of a pipe; the rest is the command. It ends, with all its descendants, when the program has ended, or
when something comes through the pipe or its other end is gone: so also when the asker was killed and could not say so.
On Linux descendants are found wherever they are, for their orphans become children of this process; elsewhere the
process group is all that can be killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import time
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_ROUNDS = 200
_PAUSE = 0.005  # seconds between rounds
_NOT_FOUND = 127  # as a shell has it


def main() -> None:
    """Start the command and wait for its end, or for the asker's."""
    watch, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    woken, waker = os.pipe()
    for end in (woken, waker):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(waker)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)  # the pipe says when; not ignored, for that would be inherited
    program = os.fork()
    if program == 0:
        _become(command, watch)
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):  # the program's alone: whoever reads them sees that it closed them
        os.dup2(nothing, standard)
    code = None
    while code is None:
        ready, _, _ = select.select([watch, woken], [], [])
        code = _reap(program)
        if watch in ready:
            break
        _drain(woken)
    ended = _end_descendants(program)  # which may have been about to end by itself
    code = ended if code is None else code
    os._exit(128 + signal.SIGKILL if code is None else code)


def _become(command: list[str], watch: int) -> None:
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    os.close(watch)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        os.write(2, f"cannot start {command[0]}: {error.strerror}\n".encode())
        os._exit(_NOT_FOUND)


def _drain(woken: int) -> None:
    with contextlib.suppress(BlockingIOError):  # a signal that said nothing new
        os.read(woken, 4096)


def _reap(program: int) -> int | None:
    """Reap whoever has ended, and return the program's exit status if it is among them."""
    code = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code
        if pid == 0:
            return code
        if pid == program:
            ended = os.waitstatus_to_exitcode(status)
            code = ended if ended >= 0 else 128 - ended


def _end_descendants(program: int) -> int | None:
    """Kill until there are none: they may start others meanwhile. Return the program's exit status if it was there."""
    if sys.platform != "linux":
        os.killpg(0, signal.SIGKILL)  # this process too
    code = None
    for _ in range(_ROUNDS):
        found = _descendants()
        for pid in found:
            with contextlib.suppress(ProcessLookupError):  # it was faster
                os.kill(pid, signal.SIGKILL)
        ended = _reap(program)
        code = ended if code is None else code
        if not found:
            break
        time.sleep(_PAUSE)
    return code


def _descendants() -> list[int]:
    found: list[int] = []
    pending = [os.getpid()]
    while pending:
        for task in Path(f"/proc/{pending.pop()}/task").glob("*/children"):
            try:
                children = [int(child) for child in task.read_text().split()]
            except OSError:
                continue  # it ended meanwhile
            pending += children
            found += children
    return found


if __name__ == "__main__":
    main()
