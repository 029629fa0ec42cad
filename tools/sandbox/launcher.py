"""The process that starts calls: small, with one thread, so that it can fork safely and in well under a millisecond.

It does not know what a job is: it hands each connection it is given to a process of its own (`supervisor`), and ends
when nobody is there to give it one.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import sys
from pathlib import Path

from agentgrpo.family import adopt_orphans, descendants, kill
from agentgrpo.tools.sandbox import kernel
from agentgrpo.tools.sandbox.job import pack
from agentgrpo.tools.sandbox.supervisor import supervise

_TIDY_EVERY = 1.0  # seconds


def serve(descriptor: int) -> None:
    """Start a supervisor for each connection that arrives on a socket, until the other end is gone."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # the thread that started it may have blocked some
    adopt_orphans()
    if sys.platform == "linux":
        kernel.set_dumpable(False)
    gc.freeze()
    control = socket.socket(fileno=descriptor)
    supervisors: set[int] = set()
    while True:
        if select.select([control], [], [], _TIDY_EVERY)[0]:
            data, arrived, _, _ = socket.recv_fds(control, 1, 1)
            if not data:
                return
            for connection in arrived:
                with socket.socket(fileno=connection) as theirs:
                    _start(theirs, control, supervisors)
        _tidy(supervisors)


def _start(connection: socket.socket, control: socket.socket, supervisors: set[int]) -> None:
    try:
        pid = os.fork()
    except OSError as error:
        with contextlib.suppress(OSError):
            connection.sendall(pack({"failure": f"no process for the call: {error}"}))
        return
    if pid == 0:
        control.close()  # or this end of it would outlive the launcher
        try:
            supervise(connection)
        finally:
            os._exit(0)
    supervisors.add(pid)


def _tidy(supervisors: set[int]) -> None:
    """Reap, and end what a supervisor that was killed has left behind."""
    with contextlib.suppress(ChildProcessError):
        while (pid := os.waitpid(-1, os.WNOHANG)[0]) != 0:
            supervisors.discard(pid)
    for orphan in _children() - supervisors:
        for pid in (orphan, *descendants(orphan)):
            kill(pid)


def _children() -> set[int]:
    try:
        return set(map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_bytes().split()))
    except OSError:  # no Linux, or a kernel without it
        return set()
