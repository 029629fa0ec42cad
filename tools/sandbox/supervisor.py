"""One call: start the command, read what it prints, hold it to its limits, and leave no process of it behind.

It does not know how a command is confined, nor who asked: it talks to the other end of a socket, whose closing means
that nobody waits any more.
"""

from __future__ import annotations

import base64
import contextlib
import json
import math
import os
import selectors
import signal
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from agentgrpo.family import adopt_orphans, descendants, is_alive, kill
from agentgrpo.tools.sandbox import kernel, usage
from agentgrpo.tools.sandbox.confine import become, exit_code
from agentgrpo.tools.sandbox.job import LENGTH, Job, length_of, pack
from agentgrpo.tools.sandbox.output import Output

_FIRST_LOOK, _LOOK_EVERY = 0.05, 0.1  # seconds
_SPARE = 4  # processes of ours that wait for the command
_CHUNK = 2**16
_MOST_LEFT = 2**23  # bytes in pipes
_LITTLE = 4096  # bytes of a file, once the disk is full
_END_SECONDS = 5.0  # for the kernel to end what was killed

_CONNECTION, _OUTPUT, _CHILD, _FAILURE = range(4)


def supervise(connection: socket.socket) -> None:
    """Be the process of one call: read the job, run it, answer."""
    os.setsid()
    adopt_orphans()
    if sys.platform == "linux":
        kernel.set_dumpable(False)  # what runs here may be of the same user
    try:
        job = Job.unpack(json.loads(_receive(connection)))
        answer = Supervisor(job, connection).run()
    except Exception as error:  # whatever it is, the other end has to hear of it
        answer = {"failure": f"{type(error).__name__}: {error}"}
    with contextlib.suppress(OSError):  # nobody waits any more
        connection.sendall(pack(answer))


def _receive(connection: socket.socket) -> bytes:
    return _exactly(connection, length_of(_exactly(connection, LENGTH)))


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        part = connection.recv(count - len(data))
        if not part:
            raise ConnectionError("the job was cut off")
        data += part
    return bytes(data)


def _file_of(data: bytes, path: str) -> int:
    """Return an open file without a name that holds data."""
    if not data:
        return os.open(os.devnull, os.O_RDONLY)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    Path(path).unlink()
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _bounded(job: Job) -> Job:
    """Return a job that can write next to nothing: else each would get a little further before it is stopped."""
    return replace(job, limits=replace(job.limits, file_size=min(job.limits.file_size, _LITTLE)))


class Supervisor:
    """Watches one command.

    Args:
        job: What to run.
        connection: Closes when nobody waits any more.
    """

    def __init__(self, job: Job, connection: socket.socket) -> None:
        self._disk_at_start = usage.disk_of(job.folder)
        self.job = _bounded(job) if self._disk_at_start > job.limits.disk else job
        self.output = Output(job.limits.output)
        self._failure = bytearray()
        self._status: int | None = None
        self._command = 0
        self._selector = selectors.DefaultSelector()
        self._selector.register(connection, selectors.EVENT_READ, _CONNECTION)
        self._start = time.monotonic()

    def run(self) -> dict[str, Any]:
        """Run the command to its end, or to that of its limits; return what is to be known of it."""
        self._watch_children()
        self._launch()
        ended = self._watch()
        status = self._status
        self._end_all()
        self._read_rest()
        if ended == "exit" and (why := self._not_confined()):
            return {"failure": why}
        if ended == "exit" and self._disk() > self._disk_allowed:
            ended = "disk"
        head, tail = (base64.b64encode(part).decode() for part in self.output.parts)
        return {
            "head": head,
            "tail": tail,
            "left_out": self.output.left_out,
            "ended": ended,
            "exit_code": None if status is None else exit_code(status),
            "seconds": time.monotonic() - self._start,
        }

    def _watch_children(self) -> None:
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        self._selector.register(reading, selectors.EVENT_READ, _CHILD)

    def _launch(self) -> None:
        reading, writing = os.pipe()
        failure_reading, failure_writing = os.pipe()
        stdin = _file_of(self.job.stdin, f"{self.job.folder}-stdin")
        self._command = os.fork()
        if self._command == 0:
            become(self.job, stdin=stdin, output=writing, failure=failure_writing)
        for descriptor in (stdin, writing, failure_writing):
            os.close(descriptor)
        for descriptor in (reading, failure_reading):
            os.set_blocking(descriptor, False)
        self._reading, self._failure_reading = reading, failure_reading
        self._selector.register(reading, selectors.EVENT_READ, _OUTPUT)
        self._selector.register(failure_reading, selectors.EVENT_READ, _FAILURE)

    def _watch(self) -> str:
        """Return why it is over: exit, deadline, cancelled, or the limit that was reached."""
        deadline = self._start + self.job.limits.seconds
        look = self._start + _FIRST_LOOK
        while True:
            now = time.monotonic()
            if now >= deadline:
                return "deadline"
            if now >= look:
                if limit := self._look():
                    return limit
                # Never more than a tenth of the time, however much there is to count.
                look = time.monotonic() + max(_LOOK_EVERY, 10 * (time.monotonic() - now))
            for key, _ in self._selector.select(max(0.0, min(deadline, look) - now)):
                if key.data == _CONNECTION:
                    return "cancelled"
                self._take(key)
            if self._status is not None:
                return "exit"

    def _take(self, key: selectors.SelectorKey) -> None:
        if key.data == _CHILD:
            os.read(key.fd, _CHUNK)
            self._reap()
        elif not self._read(key.fd, self._failure if key.data == _FAILURE else None):
            self._selector.unregister(key.fileobj)

    def _read(self, descriptor: int, into: bytearray | None = None) -> bool:
        """Take what a pipe holds; return whether there may be more."""
        try:
            data = os.read(descriptor, _CHUNK)
        except BlockingIOError:
            return False
        if into is None:
            self.output.add(data)
        else:
            into += data[: _CHUNK - len(into)]
        return bool(data)

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                if found[0] == self._command:
                    self._status = found[1]

    def _look(self) -> str | None:
        """Return the limit that is reached, of those nobody else holds the command to."""
        limits = self.job.limits
        if self._disk() > self._disk_allowed:
            return "disk"
        pids = [pid for pid in descendants(os.getpid()) if is_alive(pid)]
        if len(pids) > limits.processes + _SPARE:
            return "processes"
        if usage.memory_of(pids, limits.memory) > limits.memory:
            return "memory"
        if usage.deleted_by(pids) > limits.disk:
            return "disk"
        return None

    def _disk(self) -> float:
        return usage.disk_of(self.job.folder)

    @property
    def _disk_allowed(self) -> float:
        # Over it already: then it may tidy up, but not grow. What could not be counted allows nothing: it has no end.
        start = self._disk_at_start if math.isfinite(self._disk_at_start) else 0.0
        return max(float(self.job.limits.disk), start)

    def _end_all(self) -> None:
        """Kill until nothing of the command is left."""
        end = time.monotonic() + _END_SECONDS
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._command, signal.SIGKILL)
        if sys.platform != "linux":  # who left the group cannot be found
            if self._status is None:
                os.waitpid(self._command, 0)
            return
        while True:
            self._reap()
            left = [pid for pid in descendants(os.getpid()) if is_alive(pid)]
            if not left:
                return
            if time.monotonic() > end:
                raise OSError(f"processes {left[:5]} of a command would not end within {_END_SECONDS:g} s")
            if self.job.uid is not None:
                self._kill_user(self.job.uid)
            for pid in left:
                kill(pid)
            time.sleep(0.001)

    def _kill_user(self, uid: int) -> None:
        """Kill all of a user that exists for this sandbox alone: at one stroke, so that none can fork meanwhile."""
        killer = os.fork()
        if killer == 0:
            os.setresuid(uid, uid, uid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, signal.SIGKILL)
            os._exit(0)
        os.waitpid(killer, 0)

    def _read_rest(self) -> None:
        """Take what is still in the pipes: nobody writes any more, and a pipe holds little."""
        for _ in range(_MOST_LEFT // _CHUNK):
            if not (self._read(self._reading) or self._read(self._failure_reading, self._failure)):
                return

    def _not_confined(self) -> str:
        """Return why the command was not run at all; "" if it was."""
        said = self._failure.decode(errors="replace")
        if self.job.tier != "bubblewrap":
            return said
        if '"exit-code"' in said:
            return ""
        if said and not said.startswith("{"):  # it did not come to bubblewrap
            return said
        return "bubblewrap: " + b"".join(self.output.parts).decode(errors="replace").strip()[-500:]
