"""What the doctor finds, as data: findings of a level, in parts, and the exit code they come to.

It neither looks for anything nor prints.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TypeAlias, TypeVar

from agentgrpo.errors import AgentGRPOError
from agentgrpo.types import Json, JsonObject

T = TypeVar("T")


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"  # not looked at: something it needs failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line. `fix` says what to do; `rows` are (label, value) pairs to show below; `values` are for machines."""

    level: Level
    text: str
    fix: str = ""
    rows: Sequence[tuple[str, str]] = ()
    values: JsonObject = field(default_factory=dict)

    def to_json(self) -> JsonObject:
        """Return the finding as JSON data; empty fields are left out."""
        data: JsonObject = {"level": str(self.level), "text": self.text, "fix": self.fix, "values": self.values}
        return {key: value for key, value in data.items() if value}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What was found in one part of the examination."""

    name: str
    findings: tuple[Finding, ...]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The whole examination."""

    config: str
    parts: tuple[Part, ...]

    def count(self, level: Level) -> int:
        """Return how many findings have this level."""
        return sum(finding.level is level for part in self.parts for finding in part.findings)

    @property
    def exit_code(self) -> int:
        """0: nothing failed; 1: something did."""
        return int(self.count(Level.FAIL) > 0)

    def to_json(self) -> Json:
        """Return the report as JSON data."""
        return {
            "config": self.config,
            "exit_code": self.exit_code,
            "parts": {
                part.name: {"seconds": round(part.seconds, 2), "findings": [f.to_json() for f in part.findings]}
                for part in self.parts
            },
        }


class Missing(Exception):
    """A part needs what an earlier one could not provide; the message names it."""


Check: TypeAlias = Callable[[], Iterator[Finding]]


def ok(text: str, values: JsonObject | None = None, *, rows: Sequence[tuple[str, str]] = ()) -> Finding:
    """Return a finding that all is well."""
    return Finding(level=Level.OK, text=text, rows=rows, values=values or {})


def warn(
    text: str, fix: str = "", values: JsonObject | None = None, *, rows: Sequence[tuple[str, str]] = ()
) -> Finding:
    """Return a finding that deserves a look."""
    return Finding(level=Level.WARN, text=text, fix=fix, rows=rows, values=values or {})


def fail(
    text: str, fix: str = "", values: JsonObject | None = None, *, rows: Sequence[tuple[str, str]] = ()
) -> Finding:
    """Return a finding that would stop or spoil the run."""
    return Finding(level=Level.FAIL, text=text, fix=fix, rows=rows, values=values or {})


def need(value: T | None, what: str) -> T:
    """Return the value, or raise Missing when an earlier part could not provide it."""
    if value is None:
        raise Missing(what)
    return value


def examine_part(name: str, check: Check) -> Part:
    """Run one part to its end, whatever it raises, and return what it found."""
    clock = time.perf_counter()
    findings: list[Finding] = []
    try:
        findings.extend(check())  # extend keeps what was yielded before an exception
    except Missing as error:
        findings.append(Finding(level=Level.SKIP, text=f"not looked at: {error}"))
    except (Exception, SystemExit) as error:  # a check that breaks is a finding, never a traceback
        findings.append(_broke(error))
    return Part(name=name, findings=tuple(findings), seconds=time.perf_counter() - clock)


def _broke(error: BaseException) -> Finding:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, AgentGRPOError):
        return fail(*split_advice(str(error)))
    frames = traceback.extract_tb(error.__traceback__)[-1:]
    where = "".join(f" at {Path(frame.filename).name}:{frame.lineno}" for frame in frames)
    first = (str(error).splitlines() or [""])[0]
    return fail(
        f"{type(error).__name__}{where}: {first}"[:400], "this is a bug of agentgrpo if nothing above explains it"
    )


def split_advice(text: str) -> tuple[str, str]:
    """Return an error's message and its advice: the lines after the first, if it has several."""
    first, _, rest = text.partition("\n")
    return first, " ".join(rest.split())
