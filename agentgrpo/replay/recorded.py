"""A run opened to be played again: its configuration, its environment and its tasks, and what is not as it was.

It plays nothing and loads no model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from agentgrpo.config.run import Config, load_config
from agentgrpo.errors import EnvError, TaskError, UserError, nearest
from agentgrpo.registry import EnvSource
from agentgrpo.run.opening import is_unreachable, version_changes
from agentgrpo.run.workbench import EnvLike, open_env, open_tasks
from agentgrpo.store.record import hash_folder, hash_json, hash_sources
from agentgrpo.store.run import RunDirectory
from agentgrpo.tasks import load_tasks
from agentgrpo.types import JsonObject, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """A run as it can be played again."""

    run: RunDirectory
    record: JsonObject
    config: Config
    source: EnvSource
    tasks: Mapping[str, Task]
    notes: tuple[str, ...]  # why what is played now may differ from what was recorded

    def task(self, task_id: str) -> Task:
        """Return a task by id.

        Raises:
            TaskError: the run has none of that name.
        """
        if task_id not in self.tasks:
            raise TaskError(
                f"task '{task_id}' is none of the {len(self.tasks)} tasks kept in '{self.run.path}'."
                f"{nearest(task_id, self.tasks)} Restore {self.run.tasks.name} and {self.run.heldout.name}: without "
                "its row an episode cannot be played again"
            )
        return self.tasks[task_id]


def open_recorded(
    path: str | Path, *, env: EnvLike | None = None, overrides: Sequence[str] = (), needs_model: bool = False
) -> Recorded:
    """Open a run whose episodes are to be played again.

    Args:
        path: The run's folder, or a folder of runs (the newest is taken).
        env: Its environment, where the name in the configuration does not lead there.
        overrides: "section.key=value" strings.
        needs_model: Whether its tokenizer is used: then another model is worth a note.

    Raises:
        UserError: no run is there, or what it names cannot be found.
    """
    run, record, config = open_config(path, overrides)
    if env is None and is_unreachable(config.env):
        name = config.env.rpartition(":")[2]
        raise EnvError(
            f"the environment {name} was defined in a script itself: name the file, --set env=script.py:{name} "
            f"(or pass env={name})"
        )
    source = open_env(config, env)
    hashes = record.get("hashes", {})
    tasks, notes = _tasks(run, config, source, hashes.get("tasks", {}))
    if hashes.get("env_source") not in (None, hash_sources(source.classes)):
        notes.append(f"the code of the environment {source.id} was changed since the run began")
    notes += model_notes(config, record) if needs_model else []
    notes += version_changes(record["versions"]) if "versions" in record else []
    return Recorded(run=run, record=record, config=config, source=source, tasks=tasks, notes=tuple(notes))


def open_config(path: str | Path, overrides: Sequence[str] = ()) -> tuple[RunDirectory, JsonObject, Config]:
    """Return a run with its record and its configuration, the model named so that it is found from anywhere.

    Raises:
        UserError: there is no such run, or it ended before it began.
    """
    run = RunDirectory.open(path)
    if not run.config.is_file():
        raise UserError(f"'{run.path}' has no {run.config.name}: it was stopped before it began.")
    here = run.model_folder()
    return (
        run,
        run.read_record(),
        load_config(run.config, overrides=[*([f"model.path={here}"] if here else []), *overrides]),
    )


def model_notes(config: Config, record: JsonObject) -> list[str]:
    """Return that the model is another than when the run began, if it is.

    Raises:
        UserError: it is not there any more.
    """
    folder, then = Path(config.model.path), record.get("hashes", {}).get("model")
    if then is None:
        return []
    if not folder.is_dir():
        raise UserError(f"the run's model in '{folder}' is not there any more: put it back, or --set model.path=FOLDER")
    is_same = hash_folder(folder) == then
    return [] if is_same else [f"the model in '{folder}' has other files or weights than when the run began"]


def kept_tasks(run: RunDirectory) -> dict[str, Task]:
    """Return the tasks that a run keeps in its folder, those of training and those held out, by id."""
    return {task.id: task for path in (run.tasks, run.heldout) for task in _read(path)}


def _tasks(
    run: RunDirectory, config: Config, source: EnvSource, hashes: Mapping[str, str]
) -> tuple[dict[str, Task], list[str]]:
    """Return the tasks as they were, if they are to be had: secrets were taken out of those the run keeps."""
    kept = [_read(path) for path in (run.tasks, run.heldout)]
    if _are_those(kept, hashes):
        return _by_id(kept), []
    with suppress(UserError):
        there = open_tasks(config, source, None, None)
        if _are_those(there, hashes):
            return _by_id(there), []
    if not any(kept):
        raise TaskError(f"'{run.path}' has lost its tasks: restore {run.tasks.name} and {run.heldout.name}")
    return _by_id(kept), ["the tasks are not those the run began with"]


def _are_those(parts: Sequence[Sequence[Task]], hashes: Mapping[str, str]) -> bool:
    """Whether these are the tasks a run began with; an evaluation of an endpoint has one part, under any name."""
    found = {hash_json([task.row for task in part]) for part in parts}
    return bool(hashes) and set(hashes.values()) <= found


def _by_id(parts: Sequence[Sequence[Task]]) -> dict[str, Task]:
    return {task.id: task for part in parts for task in part}


def _read(path: Path) -> tuple[Task, ...]:
    if not path.is_file() or not path.stat().st_size:
        return ()
    try:
        return load_tasks(path)
    except TaskError:  # damaged
        return ()
