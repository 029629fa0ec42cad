from __future__ import annotations

import asyncio
import signal
import threading
import time

import pytest

from agentgrpo.blocking import run_blocking


async def where(value: int) -> tuple[int, str]:
    await asyncio.sleep(0)
    return value, threading.current_thread().name


async def broken() -> None:
    await asyncio.sleep(0)
    raise LookupError("gone")


def test_without_a_loop_it_runs_in_this_thread() -> None:
    assert run_blocking(where(3)) == (3, threading.current_thread().name)
    with pytest.raises(LookupError, match="gone"):
        run_blocking(broken())


async def in_groups(depth: int) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(in_groups(depth - 1) if depth else broken())


def test_an_error_of_a_task_group_comes_out_as_itself() -> None:
    with pytest.raises(LookupError, match="gone"):
        run_blocking(in_groups(2))


async def test_so_it_does_inside_a_running_loop() -> None:
    with pytest.raises(LookupError, match="gone"):
        run_blocking(in_groups(2))


def test_calls_that_hang_in_threads_hold_up_neither_others_nor_the_end() -> None:
    is_over = threading.Event()

    async def hang() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await asyncio.to_thread(is_over.wait)

    async def work() -> int:
        await asyncio.gather(*(hang() for _ in range(40)))  # more than the threads of Python's own pool
        return await asyncio.to_thread(lambda: 3)

    guard = threading.Timer(60, is_over.set)
    guard.start()
    try:
        assert run_blocking(work()) == 3
        assert not is_over.is_set()
    finally:
        guard.cancel()
        is_over.set()


def test_what_a_call_in_a_thread_raises_comes_out_as_itself() -> None:
    async def work() -> None:
        await asyncio.to_thread(lambda: dict[str, int]()["gone"])

    with pytest.raises(KeyError, match="gone"):
        run_blocking(work())


async def test_inside_a_running_loop_it_runs_on_a_thread_of_its_own() -> None:
    assert run_blocking(where(3)) == (3, "agentgrpo-run")
    with pytest.raises(LookupError, match="gone"):
        run_blocking(broken())
    assert "agentgrpo-run" not in [thread.name for thread in threading.enumerate()]


async def test_an_interrupt_of_a_notebook_cell_ends_the_coroutine_too() -> None:
    ended: list[str] = []

    async def long() -> None:
        threading.Timer(0.05, signal.pthread_kill, [threading.main_thread().ident, signal.SIGINT]).start()
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            await asyncio.sleep(0.01)  # what a run does to keep its adapter
            ended.append("cancelled")
            raise

    started = time.monotonic()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a notebook
    try:
        with pytest.raises(KeyboardInterrupt):
            run_blocking(long())
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended == ["cancelled"]
    assert time.monotonic() - started < 25
