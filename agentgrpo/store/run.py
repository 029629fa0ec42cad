"""The folder of a run: where its files are, written so that a reader sees each whole or not at all.

It knows names and bytes, not what a run does; what `run.json` says is in `record`.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from agentgrpo.errors import RunError, UserError, nearest
from agentgrpo.store.redact import redact, redact_text
from agentgrpo.types import Json, JsonObject

_STAMP = "%Y%m%d-%H%M%S"
_STAMPED = re.compile(r"-(\d{8}-\d{6})(?:-(\d+))?$")
_MARKS = ("run.json", "episodes.sqlite", "metrics.jsonl", "config.toml")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDirectory:
    """One run's folder: `<root>/<name>-<YYYYmmdd-HHMMSS>/`."""

    path: Path

    @classmethod
    def create(cls, root: str | Path, name: str, *, now: float | None = None) -> RunDirectory:
        """Make a folder for a new run; a second run of the same second gets a number."""
        stem = f"{name}-{time.strftime(_STAMP, time.localtime(now))}"
        number = 1
        while True:
            path = Path(root) / (stem if number == 1 else f"{stem}-{number}")
            try:
                path.mkdir(parents=True)
            except FileExistsError:
                number += 1
            except OSError as error:
                raise UserError(f"no run folder can be made at '{path}': {error}. Choose another folder.") from error
            else:
                return cls(path=path)

    @classmethod
    def open(cls, path: str | Path) -> RunDirectory:
        """Open a run's folder, or the newest run in a folder of runs.

        Raises:
            UserError: there is no run.
        """
        path = Path(path)
        if is_run(path):
            return cls(path=path)
        runs = runs_in(path)
        if runs:
            return cls(path=runs[-1])
        raise UserError(_no_run(path))

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def config(self) -> Path:
        return self.path / "config.toml"

    @property
    def record(self) -> Path:
        return self.path / "run.json"

    @property
    def episodes(self) -> Path:
        return self.path / "episodes.sqlite"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def tasks(self) -> Path:
        return self.path / "tasks.jsonl"

    @property
    def heldout(self) -> Path:
        return self.path / "heldout.jsonl"

    @property
    def verdicts(self) -> Path:
        return self.path / "verdicts.sqlite"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    @property
    def curve(self) -> Path:
        return self.path / "curve.png"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def read_record(self) -> JsonObject:
        """Return what `run.json` says; {} when it is not there."""
        try:
            record = json.loads(self.record.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise UserError(f"'{self.record}' is not JSON: {error}. Restore it or move it away.") from error
        return dict(record)

    def model_folder(self) -> str | None:
        """Return the folder of the run's model, if it is there: the config may name it relative to another folder."""
        path = self.read_record().get("model_path")
        return str(path) if path is not None and Path(path).is_dir() else None


def runs_in(root: Path) -> list[Path]:
    """Return the runs in a folder, the newest last."""
    return sorted((p for p in root.iterdir() if is_run(p)), key=_age) if root.is_dir() else []


@contextmanager
def writing(what: str, path: Path) -> Iterator[None]:
    """Turn what the disk says no to into one message.

    Raises:
        RunError: a file could not be written.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise RunError(
            f"{what} cannot be written to '{path}': {reason}. Free space or fix the folder, then go on."
        ) from error


def sync(path: Path) -> None:
    """Return when a file, or the list of files of a folder, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all, known secrets redacted; returns when it is on the disk.

    Raises:
        RunError: it cannot be written; what was there is as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path.name, path.parent):
        try:
            with temporary.open("w", encoding="utf-8") as file:
                file.write(redact_text(text))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync(path.parent)


def write_json(path: Path, value: Json) -> None:
    """Write a JSON file whole or not at all, known secrets redacted; what JSON cannot hold becomes its text."""
    write_text(path, json.dumps(redact(without_nan(value)), indent=2, default=str, ensure_ascii=False) + "\n")


def write_lines(path: Path, rows: Iterable[JsonObject]) -> None:
    """Write a file of JSON lines whole or not at all, known secrets redacted."""
    write_text(path, "".join(f"{json.dumps(row)}\n" for row in rows))


class Metrics:
    """Appends to `metrics.jsonl`: one line of flat numbers per call, in the file when the call returns.

    Args:
        path: The file.
        size: How many of its bytes to keep: what a resumed run makes again is cut off. None keeps all whole lines.
    """

    def __init__(self, path: str | Path, *, size: int | None = None) -> None:
        self.path = Path(path)
        with writing(self.path.name, self.path.parent):
            _cut(self.path, size)
            self._file = self.path.open("ab", buffering=0)
        self.size = self.path.stat().st_size

    def write(self, step: int, values: Mapping[str, float | None]) -> None:
        """Append the values of a step; several lines of one step add up, a later value of a key replaces an earlier.

        Raises:
            RunError: the line cannot be written; the file is as it was.
        """
        line = json.dumps({"step": step, "time": time.time(), **without_nan(dict(values))}).encode() + b"\n"
        with writing(self.path.name, self.path.parent):
            self._append(line)
        self.size += len(line)

    def _append(self, line: bytes) -> None:
        if self._file.write(line) != len(line):  # all that fitted
            self._file.truncate(self.size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def sync(self) -> None:
        """Return when all lines are on the disk."""
        with writing(self.path.name, self.path.parent):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Metrics:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def read_metrics(path: str | Path) -> list[JsonObject]:
    """Return the values of every step, in order, its lines merged; a line that was cut off is left out."""
    steps: dict[int, JsonObject] = {}
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    for line in text.splitlines():
        try:
            values = json.loads(line)
            steps.setdefault(int(values["step"]), {}).update(values)
        except (ValueError, KeyError, TypeError):
            continue  # torn by a kill: the step is made again
    return [steps[step] for step in sorted(steps)]


def is_run(path: Path) -> bool:
    """Return whether a folder is that of a run."""
    return any((path / mark).is_file() for mark in _MARKS)


def _age(path: Path) -> tuple[str, int, float]:
    # The name says when a run started; copying a folder changes its times.
    match = _STAMPED.search(path.name)
    modified = path.stat().st_mtime
    if match is None:
        return time.strftime(_STAMP, time.localtime(modified)), 0, modified
    return match[1], int(match[2] or 1), modified


def _no_run(path: Path) -> str:
    folder = path if path.is_dir() else path.parent
    known = [p.name for p in runs_in(folder)][::-1]
    what = f"'{path}' holds no run" if path.is_dir() else f"no run at '{path}'"
    if known:
        more = f" and {len(known) - 8} more" if len(known) > 8 else ""
        return f"{what}.{nearest(path.name, known)} Runs in '{folder}', newest first: {', '.join(known[:8])}{more}."
    return f"{what}. Expected the folder of a run, or a folder of runs such as runs/; `agentgrpo train` makes one."


def _cut(path: Path, size: int | None) -> None:
    """Cut a file down to `size` and to whole lines: a kill may have left half of one."""
    if path.exists():
        with path.open("rb+") as file:
            data = file.read(-1 if size is None else size)
            file.truncate(data.rfind(b"\n") + 1)


def without_nan(value: Json) -> Json:
    """Return JSON data with None for numbers JSON does not have: unknown, never zero."""
    if isinstance(value, dict):
        return {name: without_nan(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
