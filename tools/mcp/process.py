"""The process of one MCP server: started in a session of its own, ended with everything it started.

It does not know the protocol.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import IO

from agentgrpo.errors import ToolFailure
from agentgrpo.tooling import describe

_GUARD = Path(__file__).with_name("guard.py")
_KILL_SECONDS = 3.0  # for the guard to end the family; then its group is killed, itself included


class ServerProcess:
    """A program under a guard. `kill` may come from any thread, at any time, more than once.

    Attributes:
        socket: Our end of its standard input and output.
        stderr: Where its messages come from.
        gone: Done once the program, what it started and its guard have ended.

    Raises:
        ToolFailure: this machine can start no more processes.
    """

    def __init__(self, command: tuple[str, ...], environment: dict[str, str]) -> None:
        self.gone: Future[None] = Future()
        self._lock = threading.Lock()
        self.socket, theirs = socket.socketpair()
        watched, watch = os.pipe()
        self._watch: int | None = watch
        try:
            self._process = subprocess.Popen(
                # Isolated and without site: the guard needs nothing, and the command's environment is not its own.
                [sys.executable, "-I", "-S", str(_GUARD), str(watched), *command],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=subprocess.PIPE,
                env=environment,
                pass_fds=[watched],
                start_new_session=True,
            )
        except OSError as error:
            self.socket.close()
            os.close(watch)
            raise ToolFailure(f"cannot start {command[0]}: {describe(error)}") from error
        finally:
            theirs.close()
            os.close(watched)
        assert self._process.stderr is not None
        self.stderr: IO[bytes] = self._process.stderr

    def kill(self) -> None:
        """End it and all it started, without waiting for it; `gone` says when."""
        with self._lock:
            watch, self._watch = self._watch, None
        if watch is None:
            return
        with contextlib.suppress(BrokenPipeError):  # it has ended by itself
            os.write(watch, b"x")  # besides closing: a fork of this process may hold the other end's peer open
        os.close(watch)
        try:
            threading.Thread(target=self._reap, name="agentgrpo-reap", daemon=True).start()
        except RuntimeError:  # no thread to be had; the guard needs none of ours, `subprocess` reaps it some time later
            self.gone.set_result(None)

    @property
    def status(self) -> int | None:
        """Its exit status, 128 + n for a signal; None while it runs."""
        return self._process.poll()

    def _reap(self) -> None:
        try:
            self._process.wait(_KILL_SECONDS)
        except subprocess.TimeoutExpired:  # somebody stopped the guard
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self.gone.set_result(None)
