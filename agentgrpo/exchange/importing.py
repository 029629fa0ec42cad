"""`agentgrpo run import`: episodes somebody else wrote down (ATIF, OpenAI messages) as a run of their own.

All of them come in, or none. What a file does not tell (a reward, a seed, the environment) stays unknown; nothing here
knows how an episode is learned from.
"""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

from pydantic import ValidationError

from agentgrpo.errors import UserError
from agentgrpo.exchange.atif import is_atif
from agentgrpo.exchange.atif_read import read_atif
from agentgrpo.exchange.episode import Imported
from agentgrpo.exchange.messages import read_messages
from agentgrpo.store.episodes import EpisodeStore, Numbered, TrainingRow
from agentgrpo.store.record import finish_record, hash_file, versions
from agentgrpo.store.run import RunDirectory, write_json
from agentgrpo.types import EpisodeKey, Json, JsonObject, Parent, Trajectory

_BATCH = 200  # episodes handed to the store at once
_Found: TypeAlias = tuple[str, Json]  # where in which file, what is there


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedRun:
    """What came of an import. `left_out` counts the lines that had a key agentgrpo has no place for, by key."""

    run: RunDirectory
    episodes: int
    unscored: int
    renumbered: int  # came under a key another episode has: they are told apart by attempt
    left_out: Counter[str]


@dataclass(slots=True)
class _Import:
    keeps_tokens: bool
    keys: set[EpisodeKey] = field(default_factory=set)
    rows: dict[str, int] = field(default_factory=dict)  # by trajectory id
    count: int = 0
    unscored: int = 0
    renumbered: int = 0
    left_out: Counter[str] = field(default_factory=Counter)

    def read(self, where: str, data: Json) -> list[Numbered | TrainingRow]:
        """Return an episode as the store takes it, under a key and a number of its own."""
        if not isinstance(data, dict) or not (is_atif(data) or "messages" in data):
            raise ValueError('expected an object with "messages" (OpenAI), or with "schema_version" and "steps" (ATIF)')
        if is_atif(data):
            found = read_atif(data, keeps_tokens=self.keeps_tokens)
        else:
            found, left_out = read_messages(data)
            self.left_out.update(left_out)
        self.count += 1
        self.unscored += not found.trajectory.is_scored
        trajectory = self._with_parent(found)
        trajectory = replace(trajectory, key=self._own_key(trajectory.key, where))
        if found.trajectory_id is not None:
            self.rows.setdefault(found.trajectory_id, self.count)
        numbered = Numbered(id=self.count, trajectory=trajectory)
        return [numbered] if found.training is None else [numbered, replace(found.training, key=trajectory.key)]

    def _with_parent(self, found: Imported) -> Trajectory:
        known = None if found.parent is None else self.rows.get(found.parent.trajectory_id or "")
        if found.parent is None or known is None:
            return found.trajectory
        return replace(found.trajectory, parent=Parent(episode=known, turns=found.parent.turns))

    def _own_key(self, key: EpisodeKey, where: str) -> EpisodeKey:
        key = replace(key, task_id=key.task_id or where)
        free = key
        while free in self.keys:
            free = replace(free, attempt=free.attempt + 1)
        self.renumbered += free != key
        self.keys.add(free)
        return free


def import_files(files: Sequence[Path], runs: Path, name: str, *, model_path: str | None) -> ImportedRun:
    """Make a run of the episodes in files, or in the .json and .jsonl files of folders.

    Args:
        files: ATIF documents (.json), or lines of ATIF documents or of OpenAI messages (.jsonl).
        runs: The folder of runs the new one goes into.
        name: Its name; the time is added.
        model_path: The model folder whose tokenizer the token ids belong to. Without it those of documents that
            agentgrpo did not write are left out.

    Raises:
        UserError: a file cannot be read; the text says which, where and what was expected. Nothing was imported.
        RunError: the disk is full.
    """
    paths = [path for file in files for path in _files_of(file)]
    run = RunDirectory.create(runs, name)
    try:
        state = _Import(keeps_tokens=model_path is not None)
        write_json(run.record, _record(run, paths, model_path))
        with EpisodeStore(run.episodes) as store:
            _store(store, state, paths)
        finish_record(run, status="finished")
    except BaseException:
        shutil.rmtree(run.path)
        raise
    return ImportedRun(
        run=run,
        episodes=state.count,
        unscored=state.unscored,
        renumbered=state.renumbered,
        left_out=state.left_out,
    )


def _files_of(path: Path) -> list[Path]:
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.suffix in (".json", ".jsonl") and p.is_file())
        if not found:
            raise UserError(f"'{path}' holds no .json and no .jsonl file: name the files to import")
        return found
    if not path.is_file():
        raise UserError(f"there is no file '{path}': name a .json or .jsonl file, or a folder of them")
    return [path]


def _record(run: RunDirectory, paths: Sequence[Path], model_path: str | None) -> JsonObject:
    return {
        "name": run.name,
        "status": "running",
        "started_at": time.time(),
        "ended_at": None,
        "inexact": ["its episodes were played elsewhere"],
        "model_path": model_path and str(Path(model_path).resolve()),
        "imported": {"files": [{"name": path.name, "sha256": hash_file(path)} for path in paths]},
        "versions": versions(),
    }


def _store(store: EpisodeStore, state: _Import, paths: Sequence[Path]) -> None:
    waiting: list[Numbered | TrainingRow] = []
    for path in paths:
        for where, data in _objects(path):
            try:
                waiting += state.read(where, data)
            except (ValueError, RecursionError) as error:
                raise UserError(f"'{path}', {where}: {_line(error)}. Nothing was imported.") from error
            if len(waiting) >= _BATCH:
                store.add_sync(waiting)
                waiting = []
    if not state.count:
        raise UserError(f"no episode in {', '.join(path.name for path in paths)}: expected a line for each")
    store.add_sync(waiting)


def _objects(path: Path) -> Iterator[_Found]:
    """Yield what a file holds, and where: the whole of it, or a line."""
    if path.suffix == ".json":
        yield path.stem, _parse(path, path.stem, path.read_bytes())
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                where = f"{path.stem} line {number}"
                yield where, _parse(path, where, line)


def _parse(path: Path, where: str, text: bytes) -> Json:
    try:
        return json.loads(text.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        hint = ": a .jsonl file has one object to a line" if path.suffix == ".json" else ""
        raise UserError(f"'{path}', {where}: not JSON ({error}){hint}. Nothing was imported.") from error


def _line(error: Exception) -> str:
    """Return what is wrong in one line: of many things the first."""
    if not isinstance(error, ValidationError):
        return str(error)
    first, *more = error.errors(include_url=False)
    place = ".".join(map(str, first["loc"]))
    told = f"{place}: {first['msg']}" if place else str(first["msg"])
    got = first["input"]
    told += f", got {got!r}" if isinstance(got, str | int | float | None) and len(repr(got)) < 60 else ""
    return told + (f" (and {len(more)} more)" if more else "")
