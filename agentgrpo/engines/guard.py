"""Processes that must not outlive this one, however it ends: a killed run would leave a card full."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable

# Waits for the end of its input, which comes when whoever holds the other end is gone; then asks, and then insists.
_SCRIPT = 'read _; kill "$@"; sleep 5; kill -9 "$@"'


class Guard:
    """Ends processes as soon as this one is gone. Linux and macOS.

    Args:
        pids: The processes.
    """

    def __init__(self, pids: Iterable[int]) -> None:
        command = ["/bin/sh", "-c", _SCRIPT, "agentgrpo-guard", *map(str, pids)]
        # A session of its own: Ctrl-C in the terminal is not for it.
        self._watcher = subprocess.Popen(
            command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        )

    def kill(self) -> None:
        """End the processes now; returns once they have been made to."""
        self._watcher.communicate()

    def stop(self) -> None:
        """Watch no longer: the processes have ended in peace."""
        self._watcher.kill()
        self._watcher.communicate()
