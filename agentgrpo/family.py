"""A process and all that descend from it: found, killed, kept together.

It does not know what they run. Descendants can be found on Linux only; elsewhere there is the process group.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from pathlib import Path

_PASSES = 20  # those that left the group may fork while they are counted; one that was killed forks no more
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h


def kill_family(pid: int) -> None:
    """Kill a process, its group, and its descendants that left the group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGSTOP)  # nobody forks while they are counted
    killed: set[int] = set()
    for _ in range(_PASSES):
        if not (found := set(descendants(pid)) - killed):
            break
        for descendant in found:
            kill(descendant)
        killed |= found
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def kill(pid: int) -> None:
    """Kill a process that may have ended."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)


def descendants(pid: int) -> list[int]:
    """Return the children of a process, theirs, and so on: all there are if its orphans stay below it."""
    found: list[int] = []
    pending = [pid]
    while pending:
        folder = f"/proc/{pending.pop()}/task"
        with contextlib.suppress(OSError):  # it ended meanwhile, or this is no Linux
            for task in os.listdir(folder):  # noqa: PTH208 (asked often)
                pending += (children := [int(child) for child in Path(folder, task, "children").read_bytes().split()])
                found += children
    return found


def is_alive(pid: int) -> bool:
    """Return whether a process runs; one that only waits to be reaped does not. Linux only."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def die_with_parent() -> None:
    """Be killed when the thread that made this process ends, even while Python cannot run. Linux only."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def adopt_orphans() -> None:
    """Keep children of children below this process when their parents end. Linux only."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
