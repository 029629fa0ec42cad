"""The other end of the launcher: starts it when it is first needed, and takes a job to its answer.

It does not know what a job does. Every wait has a deadline.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from agentgrpo.errors import ToolFailure
from agentgrpo.tools.sandbox.job import LENGTH, Job, length_of

GRACE = 10.0  # seconds the launcher has to answer, besides the job's own
_SEND_SECONDS = 5.0

Answer = dict[str, Any]


class Launcher:
    """The process that starts calls, and the socket it is given connections by."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self._control, theirs = socket.socketpair()
        self._control.settimeout(_SEND_SECONDS)
        code = f"from agentgrpo.tools.sandbox.launcher import serve; serve({theirs.fileno()})"
        path = os.pathsep.join(folder or str(Path.cwd()) for folder in sys.path)
        own = {"PYTHONPATH": path} | {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}
        with theirs:
            # Nothing of this process's environment: what runs below it must find no key there.
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                pass_fds=[theirs.fileno()],
                env=own,
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )

    @property
    def is_running(self) -> bool:
        """Whether it takes connections from this process."""
        return self.owner == os.getpid() and self._process.poll() is None

    def connect(self) -> socket.socket:
        """Return a connection to a process that waits for one job."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                socket.send_fds(self._control, [b"c"], [theirs.fileno()])
            except OSError:
                ours.close()
                raise
        return ours

    def close(self) -> None:
        """End the process; calls that run end when their connections do."""
        self._control.close()
        if self.owner == os.getpid():
            try:
                self._process.wait(GRACE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


_running: list[Launcher] = []
_lock = threading.Lock()


def _connect() -> socket.socket:
    with _lock:
        for _ in range(2):  # one that was killed is noticed when it is used
            if _running and not _running[0].is_running:
                _running.pop().close()
            if not _running:
                _running.append(Launcher())
            try:
                return _running[0].connect()
            except OSError as error:
                failure = error
                _running.pop().close()
    raise ToolFailure(f"the sandbox's launcher cannot be reached: {failure}")


@atexit.register
def _close() -> None:
    while _running:
        _running.pop().close()


class Call:
    """One job on its way."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._socket = _connect()

    async def run(self) -> Answer:
        """Return the answer.

        Raises:
            ToolFailure: there is none.
        """
        loop = asyncio.get_running_loop()
        self._socket.setblocking(False)

        async def receive(count: int) -> bytes:
            data = bytearray()
            while len(data) < count:
                data += _some(await loop.sock_recv(self._socket, count - len(data)))
            return bytes(data)

        try:
            async with asyncio.timeout(self._seconds):
                await loop.sock_sendall(self._socket, self._job.pack())
                return self._answer(await receive(length_of(await receive(LENGTH))))
        except (OSError, ValueError) as error:
            raise _lost(error) from error

    def run_sync(self) -> Answer:
        """Return the answer, as `run`."""
        end = time.monotonic() + self._seconds

        def receive(count: int) -> bytes:
            data = bytearray()
            while len(data) < count:
                self._socket.settimeout(max(0.001, end - time.monotonic()))
                data += _some(self._socket.recv(count - len(data)))
            return bytes(data)

        try:
            self._socket.settimeout(self._seconds)
            self._socket.sendall(self._job.pack())
            return self._answer(receive(length_of(receive(LENGTH))))
        except (OSError, ValueError) as error:
            raise _lost(error) from error

    def _answer(self, data: bytes) -> Answer:
        self._socket.close()  # the answer is the last there is: nothing of the call runs any more
        answer: Answer = json.loads(data)
        if "failure" in answer:
            raise ToolFailure(f"the sandbox did not run the command: {answer['failure']}")
        return answer

    def end(self) -> None:
        """Say that nobody waits any more; `wait` knows when it is over."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def wait(self, seconds: float) -> bool:
        """Return whether the call has ended and its processes with it, after at most some seconds."""
        end = time.monotonic() + seconds
        try:
            while True:
                self._socket.settimeout(max(0.001, end - time.monotonic()))
                if not self._socket.recv(2**16):
                    break
        except TimeoutError:
            return False
        except OSError:  # reset: nobody is there
            pass
        self._socket.close()
        return True

    @property
    def _seconds(self) -> float:
        return self._job.limits.seconds + GRACE


def _some(data: bytes) -> bytes:
    if not data:
        raise ConnectionError("its process ended without an answer")
    return data


def _lost(error: Exception) -> ToolFailure:
    return ToolFailure(f"the sandbox gave no answer: {str(error) or type(error).__name__}")
