"""Run a coroutine from ordinary code, also where an event loop is running already (a notebook)."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, wait
from typing import Any, TypeVar

T = TypeVar("T")


def first_error(error: BaseException) -> BaseException:
    """Return the first error of a group, however deep: what a person has to read."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def run_blocking(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end and return what it returns; inside a running loop, on a thread of its own.

    Of several errors that task groups gathered the first is raised, as it would be without them.
    An interrupt ends the coroutine as it does in `asyncio.run`: it is cancelled, and waited for.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(_ungrouped(coroutine))
    future: Future[T] = Future()
    cancel: Future[Callable[[], object]] = Future()

    async def cancellable() -> T:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        cancel.set_result(lambda: loop.call_soon_threadsafe(task.cancel))
        return await _ungrouped(coroutine)

    def run() -> None:
        try:
            future.set_result(asyncio.run(cancellable()))
        except BaseException as error:  # raised again in the caller's thread
            future.set_exception(error)

    thread = threading.Thread(target=run, name="agentgrpo-run")
    thread.start()
    try:
        wait([future])  # a `join` that was interrupted takes the thread for ended (Python 3.11)
    except KeyboardInterrupt:  # reaches the caller's thread only
        with contextlib.suppress(RuntimeError):  # it ended meanwhile, its loop is closed
            cancel.result()()
        wait([future])
        raise
    thread.join()
    return future.result()


async def _ungrouped(coroutine: Coroutine[Any, Any, T]) -> T:
    try:
        return await coroutine
    except BaseExceptionGroup as group:
        raise first_error(group) from group
