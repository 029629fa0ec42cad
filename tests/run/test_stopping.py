from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable

import pytest

from agentgrpo.blocking import have_daemons_ended, in_daemon, run_blocking
from agentgrpo.run.stopping import Stopping


async def attached(stopping: Stopping, rescued: list[str], then: Callable[[], object]) -> None:
    stopping.attach(lambda: rescued.append("rescued"))
    then()
    await asyncio.sleep(30)


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(
    ("number", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)], ids=["int", "term"]
)
def test_a_signal_cancels_the_run_and_handlers_come_back(number: signal.Signals, kind: type[BaseException]) -> None:
    before, rescued = signal.getsignal(number), list[str]()
    with Stopping() as stopping:
        assert stopping.outcome() is None
        with pytest.raises(asyncio.CancelledError):
            run_blocking(attached(stopping, rescued, lambda: os.kill(os.getpid(), number)))
        outcome = stopping.outcome()
    assert isinstance(outcome, kind)
    assert not isinstance(outcome, SystemExit) or outcome.code == 143
    assert signal.getsignal(number) is before
    assert not rescued


def test_before_there_is_a_run_a_signal_ends_the_call_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), Stopping():
        interrupt()
        time.sleep(1)


def test_a_run_that_does_not_end_is_rescued(monkeypatch: pytest.MonkeyPatch) -> None:
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    rescued: list[str] = []

    async def stubborn(stopping: Stopping) -> None:
        stopping.attach(lambda: rescued.append("rescued"))
        interrupt()
        deadline = time.monotonic() + 60
        while not codes and time.monotonic() < deadline:
            time.sleep(0.01)  # noqa: ASYNC251 (that is what is wrong with it)

    with Stopping(seconds=0.05) as stopping:
        run_blocking(stubborn(stopping))
    assert (rescued, codes) == (["rescued"], [130])


async def test_in_a_notebook_the_process_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "_exit", lambda code: pytest.fail("the notebook's process was ended"))
    with Stopping(seconds=0.05) as stopping:
        with pytest.raises(asyncio.CancelledError):
            run_blocking(attached(stopping, [], interrupt))
        stopping.exit_process()
    assert isinstance(stopping.outcome(), KeyboardInterrupt)


def test_outside_the_main_thread_nothing_breaks() -> None:
    before, found = signal.getsignal(signal.SIGINT), list[object]()

    def work() -> None:
        with Stopping() as stopping:
            run_blocking(briefly(stopping))
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [before]


async def briefly(stopping: Stopping) -> None:
    stopping.attach(lambda: None)
    await asyncio.sleep(0)


def test_a_signal_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Stopping():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


async def test_a_daemon_is_not_waited_for_but_can_be() -> None:
    go = threading.Event()
    assert await in_daemon(lambda: 3, "three") == 3
    with pytest.raises(LookupError):
        await in_daemon(lambda: dict[str, int]()["x"], "fails")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(in_daemon(lambda: go.wait(60), "waits"), 0.05)
    assert not have_daemons_ended(0.01)
    go.set()
    assert have_daemons_ended(60)
