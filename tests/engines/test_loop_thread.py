from __future__ import annotations

import asyncio
import threading

import pytest

from agentgrpo.engines.loop_thread import LoopThread
from tests.engines.stubs import settled


async def name() -> str:
    return threading.current_thread().name


def test_work_is_done_in_a_thread_of_its_own() -> None:
    thread = LoopThread("apart")
    assert thread.wait(name()) == "apart" == thread.submit(name()).result()
    thread.close(60.0)
    assert "apart" not in [other.name for other in threading.enumerate()]


async def test_what_is_not_waited_for_any_more_is_cancelled() -> None:
    thread = LoopThread("apart")

    async def tasks() -> int:
        return len(asyncio.all_tasks())

    with pytest.raises(TimeoutError):
        await asyncio.to_thread(thread.wait, asyncio.Event().wait(), 0.05)
    await settled(lambda: thread.wait(tasks()) == 1)  # the one that counts
    thread.close(60.0)


def test_a_loop_that_is_blocked_is_not_waited_for_for_ever() -> None:
    thread, begun, go_on = LoopThread("blocked"), threading.Event(), threading.Event()

    async def block() -> None:
        begun.set()
        go_on.wait()

    blocked = thread.submit(block())
    begun.wait(60.0)
    thread.close(0.1)
    assert not blocked.done()
    go_on.set()
    blocked.result(60.0)
    thread.close(60.0)
