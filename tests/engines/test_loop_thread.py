from __future__ import annotations

import asyncio
import threading
import time

import pytest

from agentgrpo.engines.loop_thread import LoopThread
from tests.engines.stubs import settled


async def name() -> str:
    return threading.current_thread().name


def test_work_is_done_in_a_thread_of_its_own() -> None:
    thread = LoopThread("apart")
    assert thread.wait(name()) == "apart" == thread.submit(name()).result()
    thread.close(5.0)
    assert "apart" not in [other.name for other in threading.enumerate()]


async def test_what_is_not_waited_for_any_more_is_cancelled() -> None:
    thread, ended = LoopThread("apart"), list[str]()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    with pytest.raises(TimeoutError):
        await asyncio.to_thread(thread.wait, work(), 0.05)
    await settled(lambda: ended == ["cancelled"])
    thread.close(5.0)


def test_a_loop_that_is_blocked_is_not_waited_for_for_ever() -> None:
    thread, begun, go_on = LoopThread("blocked"), threading.Event(), threading.Event()

    async def block() -> None:
        begun.set()
        go_on.wait(30)

    blocked = thread.submit(block())
    begun.wait(5.0)
    clock = time.monotonic()
    thread.close(0.1)
    assert time.monotonic() - clock < 5.0
    go_on.set()
    blocked.result(5.0)
    thread.close(5.0)
