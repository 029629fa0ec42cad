"""Locks on a run's folder: one process at a time trains in it, one at a time forks its episodes.

The operating system holds it for the process, so that it is gone however that ends.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Literal

from agentgrpo.errors import UserError
from agentgrpo.store.run import writing

_FILES = {"trained": ".lock", "forked": ".forks.lock"}


class RunLock:
    """Held from its making to `close`.

    Args:
        folder: The run's.
        doing: What it keeps to one at a time, in words.

    Raises:
        UserError: another process (or another run of this one) holds it.
    """

    def __init__(self, folder: Path, doing: Literal["trained", "forked"] = "trained") -> None:
        path = folder / _FILES[doing]
        with writing("the lock", path):
            self._file = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            owner = self._file.read().strip() or "unknown"
            self._file.close()
            raise UserError(
                f"'{folder}' is being {doing} by process {owner}: wait for its end or stop it (Ctrl-C, kill {owner})."
            ) from None
        self._file.truncate(0)
        self._file.write(str(os.getpid()))
        self._file.flush()

    def close(self) -> None:
        """Let go."""
        self._file.close()

    def __enter__(self) -> RunLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
