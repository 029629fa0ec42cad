"""The clock of the running event loop, which a test puts forward: a deadline strikes when the test says so.

So a deadline can be longer than any machine is slow and still be met at once, after exactly what was to come before.
"""

from __future__ import annotations

import asyncio
from typing import Any


def leap(seconds: float) -> None:
    """Let so many seconds pass for everything that waits in the running loop; what begins later is not touched."""
    loop = asyncio.get_running_loop()
    now = loop.time
    loop.time = lambda: now() + seconds  # type: ignore[method-assign]


def skip_waits() -> None:
    """Let the running loop skip what it would wait for: its time passes by waiting alone, not by computing.

    So who ends first is decided by what each waits for, on any machine. For tests in which nothing comes from outside
    of the loop: a thread or a process would be given no time.
    """
    loop: Any = asyncio.get_running_loop()
    now, select = loop.time(), loop._selector.select

    def skip(timeout: float | None) -> Any:
        nonlocal now
        now += timeout or 0.0
        return select(timeout and 0.0)

    loop.time, loop._selector.select = lambda: now, skip
