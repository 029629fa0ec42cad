"""What processes and a folder use at this moment: memory, disk.

It does not know limits. Linux only, but for `disk_of`.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")
_BLOCK = 512  # of st_blocks
_LEAST = 4096  # bytes of a file without any: a million of them fill a disk too
_MOST_ENTRIES = 200_000
_PSS = re.compile(rb"^Pss:\s+(\d+) kB", re.MULTILINE)


def memory_of(pids: Iterable[int], limit: int) -> int:
    """Return how many bytes of memory processes hold together, exactly if it might be above the limit."""
    pids = list(pids)
    total = sum(_resident(pid) for pid in pids)
    # What is shared counts for each there; the exact figure takes longer.
    return total if total <= limit else sum(_proportional(pid) for pid in pids)


def _resident(pid: int) -> int:
    with contextlib.suppress(OSError):  # it ended meanwhile
        return int(Path(f"/proc/{pid}/statm").read_bytes().split()[1]) * _PAGE
    return 0


def _proportional(pid: int) -> int:
    try:
        found = _PSS.search(Path(f"/proc/{pid}/smaps_rollup").read_bytes())
    except OSError:
        return _resident(pid)
    return int(found[1]) * 1024 if found else _resident(pid)


def disk_of(folder: str) -> float:
    """Return how many bytes a folder's files take; infinity if it cannot be known: too deep, too many, unreadable."""
    total, entries, pending = 0.0, 0, [folder]
    while pending:
        try:
            with os.scandir(pending.pop()) as found:
                for entry in found:
                    entries += 1
                    total += _size(entry)
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    if entries > _MOST_ENTRIES:
                        return math.inf
        except (FileNotFoundError, NotADirectoryError):  # gone meanwhile
            continue
        except OSError:
            return math.inf
    return total


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return max(_LEAST, entry.stat(follow_symlinks=False).st_blocks * _BLOCK)
    except FileNotFoundError:
        return 0


def deleted_by(pids: Iterable[int]) -> int:
    """Return how many bytes of files without a name processes hold open."""
    held: dict[tuple[int, int], int] = {}
    for pid in pids:
        with contextlib.suppress(OSError):  # it ended meanwhile
            for entry in os.scandir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    found = entry.stat()
                    if found.st_nlink == 0 and stat.S_ISREG(found.st_mode):
                        held[found.st_dev, found.st_ino] = found.st_blocks * _BLOCK
    return sum(held.values())
