"""A sandbox: a folder that stays between calls, and commands that run in it one at a time, contained.

It does not know how they are contained (`tiers`, `confine`) or what an episode is.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

from agentgrpo.errors import EnvError, ToolError, ToolFailure
from agentgrpo.tools.sandbox.client import Call
from agentgrpo.tools.sandbox.folder import Folder, sweep
from agentgrpo.tools.sandbox.job import MB, Job, Limits
from agentgrpo.tools.sandbox.outcome import Outcome, outcome_of
from agentgrpo.tools.sandbox.tiers import Tier, facts, strongest
from agentgrpo.tools.sandbox.user import default_python, homes_of, is_open_to_others, own_user
from agentgrpo.types import JsonObject

_END_SECONDS = 10.0  # for a call that was given up to have ended
_READ_LIMIT = 16 * MB
_MAX_ARGUMENT = 2**17 - 1  # bytes: MAX_ARG_STRLEN of linux/binfmts.h
_OWN_PLACES = ("/tmp", "/dev", "/proc", "/sys")  # a sandbox has its own there: it cannot show the machine's


class Sandbox:
    """A place to run what a model wrote. Make one per episode, and close it.

    Args:
        minimum: The weakest tier that will do: "process", "landlock", "namespace" or "bubblewrap". The strongest this
            machine has is used.
        tier: Exactly this one instead, for calls that look the same on every machine.
        limits: Of each call.
        python: An interpreter; it and its environment can be read in the sandbox. None means the installation this
            process's own environment was made from, without its packages.
        readable: More files and folders that can be read; none in /tmp.

    Raises:
        EnvError: the machine has no such tier (what is missing is said), or something cannot be shown in a sandbox.
    """

    def __init__(
        self,
        *,
        minimum: str = "landlock",
        tier: str | None = None,
        limits: Limits | None = None,
        python: str | Path | None = None,
        readable: Sequence[str | Path] = (),
    ) -> None:
        self.tier: Tier = strongest(minimum, tier)
        self.limits = limits or Limits()
        self._uid = own_user()
        has_own = self._uid is not None
        self.python_path = default_python(has_own) if python is None else _showable(python, has_own)
        self._readable = (*[_showable(path, has_own) for path in readable], *homes_of(self.python_path))
        _sweep_once()
        self._folder = Folder(self._uid)
        self._call: Call | None = None  # one that has not been answered
        self._lock = threading.Lock()
        self._remove = weakref.finalize(self, self._folder.remove)

    @property
    def facts(self) -> JsonObject:
        """What a record of a run should say: the tier in force and what it rests on."""
        return facts(self.tier) | {"python": self.python_path}

    # Commands

    async def run(self, argv: Sequence[str], *, stdin: bytes = b"", seconds: float | None = None) -> Outcome:
        """Run a command in the working folder. When it ends, every process it started does too.

        Args:
            argv: The program and its arguments.
            stdin: What it reads.
            seconds: Its deadline, instead of the limits'.

        Raises:
            ToolFailure: it could not be run, confined as it has to be.
            EnvError: the sandbox is closed, or runs another command.
        """
        with self._alone():
            self._call = Call(self._job(argv, stdin, seconds))
            answer = await self._call.run()
            self._call = None
            return outcome_of(answer, self.tier)

    def run_sync(self, argv: Sequence[str], *, stdin: bytes = b"", seconds: float | None = None) -> Outcome:
        """Run a command as `run` does, and wait for it: in rewards and set-up, not on an event loop."""
        with self._alone():
            self._call = Call(self._job(argv, stdin, seconds))
            answer = self._call.run_sync()
            self._call = None
            return outcome_of(answer, self.tier)

    async def python(self, code: str) -> str:
        """Run a Python program and return what it prints. Files stay for the next call, variables do not.

        Args:
            code: The program.
        """
        return await self._shown([self.python_path, "-s", "-c", code])

    async def shell(self, command: str) -> str:
        """Run a shell command and return what it prints. Files stay for the next call, processes do not.

        Args:
            command: The command.
        """
        return await self._shown([_shell(), "-c", command])

    async def _shown(self, argv: Sequence[str]) -> str:
        if (flaw := _flaw(argv[-1])) is not None:
            raise ToolError(flaw)
        return (await self.run(argv)).shown(self.limits)

    def _job(self, argv: Sequence[str], stdin: bytes, seconds: float | None) -> Job:
        for argument in argv:
            if (flaw := _flaw(argument)) is not None:
                raise EnvError(f"a command's argument cannot be passed: {flaw}; pass it as stdin or in a file")
        return Job(
            tier=self.tier,
            argv=tuple(argv),
            folder=self._folder.path,
            readable=self._readable,
            uid=self._uid,
            stdin=stdin,
            limits=self.limits if seconds is None else replace(self.limits, seconds=seconds),
        )

    # The working folder

    def write(self, name: str, data: str | bytes) -> None:
        """Write a file of the working folder; folders in its name are made."""
        with self._alone():
            self._folder.write(name, data.encode() if isinstance(data, str) else data)

    def read(self, name: str, *, limit: int = _READ_LIMIT) -> bytes:
        """Return a file of the working folder; no link is followed.

        Raises:
            FileNotFoundError: there is none, or what is there is no plain file of at most `limit` bytes.
        """
        with self._alone():
            return self._folder.read(name, limit)

    def snapshot(self, *, limit: int = 64 * MB) -> bytes:
        """Return the working folder as a tar file: equal content gives equal bytes.

        Raises:
            ToolFailure: it is larger than `limit`, or cannot be read.
        """
        with self._alone():
            return self._folder.pack(limit)

    def restore(self, snapshot: bytes) -> None:
        """Make the working folder what it was; all else in the sandbox is deleted.

        Raises:
            EnvError: this is no snapshot.
        """
        with self._alone():
            self._folder.unpack(snapshot)

    def clear(self) -> None:
        """Delete all files: a new episode."""
        with self._alone():
            self._folder.empty()

    def close(self) -> None:
        """Delete the sandbox; it may be closed already."""
        if self._remove.alive:
            with contextlib.suppress(ToolFailure):  # what is left is deleted when the next program starts
                self._settle()
                self._remove()

    def __enter__(self) -> Self:
        """Return the sandbox."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._lock.acquire(blocking=False):
            raise EnvError("a sandbox does one thing at a time: await the command before the next")
        try:
            if not self._remove.alive:
                raise EnvError("this sandbox is closed: make one per episode, and close it when the episode is over")
            self._settle()
            yield
        finally:
            if self._call is not None:
                self._call.end()
            self._lock.release()

    def _settle(self) -> None:
        """Wait until nothing of a command that was given up runs any more."""
        if self._call is not None:
            self._call.end()
            if not self._call.wait(_END_SECONDS):
                raise ToolFailure("the processes of a command that was given up do not end")
            self._call = None


def _showable(path: str | Path, has_own_user: bool) -> str:
    absolute = Path(path).absolute()
    for place in _OWN_PLACES:
        if absolute.is_relative_to(place):
            raise EnvError(
                f"{absolute} cannot be shown in a sandbox, which has a {place} of its own: move it elsewhere"
            )
    if not absolute.exists():
        raise EnvError(f"there is no {absolute} to show in a sandbox")
    if has_own_user and not is_open_to_others(str(absolute)):
        raise EnvError(
            f"{absolute} cannot be read by the user sandboxes have here, who is nobody in particular: open it and the "
            "folders it is in to others (chmod o+rx), or do not run as root"
        )
    return str(absolute)


def _flaw(argument: str) -> str | None:
    """Return why no program takes an argument."""
    if "\0" in argument:
        return "it holds a NUL character"
    if (size := len(argument.encode("utf-8", "surrogatepass"))) > _MAX_ARGUMENT:
        return f"it has {size:,} bytes, at most {_MAX_ARGUMENT:,} are possible"
    return None


@cache
def _shell() -> str:
    return next(path for path in ("/bin/bash", "/usr/bin/bash", "/bin/sh") if Path(path).exists())


@cache
def _sweep_once() -> None:
    sweep()
