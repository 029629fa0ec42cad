"""What a fault may leave behind in this process: tasks nobody asked after, file descriptors, threads, processes."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

PATIENCE = 60.0  # seconds, on any machine, for the kernel and the loop to finish what was told to end


def descriptors() -> int:
    """Return how many files this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def our_threads() -> set[threading.Thread]:
    """Return the threads that environments run in."""
    return {thread for thread in threading.enumerate() if thread.name.startswith("agentgrpo-env")}


def is_alive(pid: int) -> bool:
    """Return whether a process runs; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def survivors(pids: Iterable[int]) -> list[int]:
    """Return the processes that are still alive after some patience."""
    left = list(pids)
    for _ in range(int(PATIENCE / 0.02)):
        left = [pid for pid in left if is_alive(pid)]
        if not left:
            break
        await asyncio.sleep(0.02)
    return left


@asynccontextmanager
async def nothing_left_behind(*, threads: bool = True) -> AsyncIterator[None]:
    """Fail unless the loop heard of no stray exception and as many files (and threads) are open as before."""
    strays: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: strays.append(context))
    files, tasks, before = descriptors(), len(asyncio.all_tasks()), our_threads()
    yield
    end = time.monotonic() + PATIENCE

    def is_left() -> bool:
        return descriptors() > files or len(asyncio.all_tasks()) > tasks or bool(threads and our_threads() - before)

    while is_left() and time.monotonic() < end:
        gc.collect()
        await asyncio.sleep(0.02)
    gc.collect()
    loop.set_exception_handler(None)
    assert strays == []
    assert descriptors() <= files
    assert len(asyncio.all_tasks()) <= tasks
    assert not threads or our_threads() <= before
