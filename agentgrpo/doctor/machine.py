"""What this machine has and what this process uses of it: memory (a container's limit too), cores, load, disk.

Read from the operating system; None where it does not say.
"""

from __future__ import annotations

import os
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

GB = 1e9
_CGROUP = Path("/sys/fs/cgroup")
_STATUS = Path("/proc/self/status")
_NO_LIMIT = 1 << 60


@dataclass(slots=True)
class Peak:
    """The most memory this process used while a block ran, in bytes."""

    before: int = 0
    bytes: int = 0
    is_own: bool = False  # False: the system only says the peak of the whole process

    @property
    def added(self) -> int:
        return max(0, self.bytes - self.before)


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """The machine's memory in bytes; `limit` is what this process may use: the container's limit, else all of it."""

    total: int
    limit: int
    available: int
    is_container: bool = field(default=False)


def memory() -> Memory:
    """Return how much memory there is, and how much of it is free."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    available = _kilobytes(Path("/proc/meminfo"), "MemAvailable") or total
    cap = cgroup_limit()
    if cap is None or cap >= total:
        return Memory(total=total, limit=total, available=available)
    used = _number(_CGROUP / "memory.current") or _number(_CGROUP / "memory/memory.usage_in_bytes") or 0
    return Memory(total=total, limit=cap, available=min(available, cap - used), is_container=True)


def cgroup_limit() -> int | None:
    """Return the memory limit of this container, version 2 or 1 of control groups, in bytes."""
    found = [_number(_CGROUP / name) for name in ("memory.max", "memory/memory.limit_in_bytes")]
    limits = [limit for limit in found if limit is not None and limit < _NO_LIMIT]
    return min(limits, default=None)


def cores() -> float:
    """Return how many cores this process may use: its affinity, and the container's quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = (_CGROUP / "cpu.max").read_text(encoding="ascii").split()
        return min(float(count), int(quota) / int(period))
    except (OSError, ValueError):  # no such file, or "max": no quota
        return float(count)


def load() -> float:
    """Return how many processes were running over the last minute."""
    return os.getloadavg()[0]


def resident() -> int:
    """Return the bytes of memory this process holds now."""
    return _kilobytes(_STATUS, "VmRSS") or peak_resident()


def peak_resident() -> int:
    """Return the most bytes of memory this process ever held."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return max(_kilobytes(_STATUS, "VmHWM") or 0, used if sys.platform == "darwin" else used * 1024)


class Stopwatch:
    """Measures time as it would be on a machine left alone: what threads waited for a core is taken off (Linux)."""

    def __init__(self) -> None:
        self._clock, self._threads = time.perf_counter(), _threads()

    @property
    def wall(self) -> float:
        """Seconds since it was started, other programs' share included."""
        return time.perf_counter() - self._clock

    @property
    def seconds(self) -> float:
        """Seconds since it was started, less those spent waiting for a core."""
        wall, now, nothing = self.wall, _threads(), (0.0, 0.0)
        ran = sum(time[0] - self._threads.get(thread, nothing)[0] for thread, time in now.items())
        waited = sum(time[1] - self._threads.get(thread, nothing)[1] for thread, time in now.items())
        # Threads that wait at the same time are counted twice; what they ran took at most as long one after the other.
        return max(wall - waited, min(ran, wall))


def _threads() -> dict[str, tuple[float, float]]:
    """Return {thread: (seconds on a core, seconds waiting for one)} of this process; empty where nobody counts."""
    found = {}
    for task in Path("/proc/self/task").glob("*"):
        with suppress(OSError, ValueError):  # it ended meanwhile
            ran, waited, _ = map(int, (task / "schedstat").read_text(encoding="ascii").split())
            found[task.name] = ran / 1e9, waited / 1e9
    return found


@contextmanager
def watch_peak() -> Iterator[Peak]:
    """Measure the most memory used inside the block, where the system lets a process reset its own mark (Linux)."""
    peak = Peak(before=resident())
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        peak.is_own = True
    except OSError:
        peak.is_own = False  # another system: the peak of the whole process stands in
    yield peak
    peak.bytes = (_kilobytes(_STATUS, "VmHWM") if peak.is_own else None) or peak_resident()


def disk_free(folder: Path) -> int:
    """Return the free bytes where a folder is, or will be."""
    return shutil.disk_usage(nearest_folder(folder)).free


def nearest_folder(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.is_dir())


def size(count: float) -> str:
    """Return bytes as people say them."""
    if count < 1e6:
        return f"{count / 1e3:.0f} kB"
    return f"{count / 1e6:.0f} MB" if count < GB else f"{count / GB:.1f} GB"


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _kilobytes(path: Path, key: str) -> int | None:
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), None)
