"""Run a coroutine from ordinary code, also where an event loop is running already (a notebook)."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, ParamSpec, TypeVar, cast

P = ParamSpec("P")
T = TypeVar("T")

_daemons: weakref.WeakSet[threading.Thread] = weakref.WeakSet()


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

    thread = threading.Thread(target=run, name="agentgrpo-run", daemon=True)
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


async def in_daemon(call: Callable[[], T], name: str) -> T:
    """Run a blocking call in a thread that no exit waits for, unlike those of `asyncio.to_thread`."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.cancelled():  # nobody waits any more
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(cast(T, result))

    def work() -> None:
        try:
            outcome: tuple[T | None, BaseException | None] = call(), None
        except BaseException as error:  # raised again where it is awaited
            outcome = None, error
        with contextlib.suppress(RuntimeError):  # the loop has closed
            loop.call_soon_threadsafe(settle, *outcome)

    thread = threading.Thread(target=work, name=name, daemon=True)
    _daemons.add(thread)
    thread.start()
    return await future


def have_daemons_ended(seconds: float) -> bool:
    """Wait for the threads of `in_daemon`, this long at most; return whether all have ended.

    Python cannot end safely around one that is inside of C++.
    """
    deadline = time.monotonic() + seconds
    for thread in list(_daemons):
        thread.join(max(0.0, deadline - time.monotonic()))
    return not any(thread.is_alive() for thread in _daemons)


class _Daemons(ThreadPoolExecutor):
    """Where `asyncio.to_thread` runs a call: in a thread of its own that no exit waits for.

    Python's own has few threads, which all that runs in the loop shares: some tools that hang would stop every other
    call, and the end of the program. An event loop takes nothing but a `ThreadPoolExecutor`; this one has no pool.
    """

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Start a call."""
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()

        def work() -> None:
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:  # raised again where it is awaited
                future.set_exception(error)

        threading.Thread(target=work, name="asyncio_daemon", daemon=True).start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Wait for nothing."""


async def _ungrouped(coroutine: Coroutine[Any, Any, T]) -> T:
    asyncio.get_running_loop().set_default_executor(_Daemons())
    try:
        return await coroutine
    except BaseExceptionGroup as group:
        raise first_error(group) from group
