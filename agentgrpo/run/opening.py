"""Opens a run for training: a new one from its configuration, or one that was stopped from what its folder holds.

It trains nothing. What could make a run go on as another one is found here, and refused or noted.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentgrpo.config.file import validate
from agentgrpo.config.run import Config, load_config
from agentgrpo.errors import ConfigError, EnvError, ModelError, TaskError, UserError
from agentgrpo.learner.policy import LoraPolicy
from agentgrpo.registry import EnvSource
from agentgrpo.run.checkpoint import Checkpoints
from agentgrpo.run.report import Reporter
from agentgrpo.run.tracking import check_trackers
from agentgrpo.run.trainer_state import Progress, restore
from agentgrpo.run.workbench import (
    EnvLike,
    TasksLike,
    Workbench,
    assemble,
    env_reference,
    numbers_of,
    open_env,
    open_tasks,
    prepare,
    set_threads,
)
from agentgrpo.store.episodes import EpisodeStore, forget_after
from agentgrpo.store.lock import RunLock
from agentgrpo.store.reader import EpisodeReader
from agentgrpo.store.record import (
    hash_folder,
    hash_json,
    hash_sources,
    processor,
    resume_record,
    start_record,
    versions,
)
from agentgrpo.store.recover import mend
from agentgrpo.store.run import RunDirectory, write_lines, write_text
from agentgrpo.tasks import load_tasks
from agentgrpo.types import EpisodeKey, JsonObject, StopReason, Task, Trajectory

# What may be another when a run goes on: none of it changes what is done already.
FREE = {
    *("train.steps", "train.max_hours", "train.checkpoint_every", "train.keep_checkpoints", "train.track"),
    *("train.stall_seconds", "train.stop_stalled_seconds", "rollout.concurrency", "rollout.max_failed_share"),
    "rollout.group_seconds",
    *("judge.endpoint", "judge.api_key_env", "judge.seconds", "judge.concurrency", "judge.retries"),
    *("judge.budget_calls", "judge.budget_tokens"),
}
# What only says where something is: the thing itself is compared by its hash.
PLACES = {"env", "tasks", "heldout", "model.path", "reward", "judge.rubric_file"}

Tasks = tuple[tuple[Task, ...], tuple[Task, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What the caller says, each None when it says nothing."""

    config: str | Path | Mapping[str, Any] | Config | None = None
    env: EnvLike | None = None
    tasks: TasksLike | None = None
    heldout: TasksLike | float | None = None
    overrides: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A run that can go on from `progress`."""

    bench: Workbench
    run: RunDirectory
    lock: RunLock
    progress: Progress
    finished: Mapping[EpisodeKey, Trajectory] = field(default_factory=dict)  # of the step that is open

    @property
    def resume_command(self) -> str:
        """What to type (or to call) to go on with this run."""
        reference = env_reference(self.bench.config, self.bench.source)
        if is_unreachable(reference):
            return f"agentgrpo.train(resume={str(self.run.path)!r}, env={self.bench.source.env_class.__name__})"
        return f"{program()} train --resume {shlex.quote(str(self.run.path))}"

    @property
    def config_hash(self) -> str:
        """The hash of the configuration, as a checkpoint's manifest has it."""
        return hash_json(self.bench.config.model_dump(mode="json"))


def begin(given: Given, reporter: Reporter) -> Opened:
    """Make a new run and write down what it is made of."""
    assert given.config is not None
    config = load_config(given.config, overrides=given.overrides, env=given.env if isinstance(given.env, str) else None)
    check_trackers(config.train.track)
    bench = prepare(config, env=given.env, tasks=given.tasks, heldout=given.heldout, reporter=reporter)
    run = RunDirectory.create(config.train.runs, config.name)
    with ExitStack() as undo:  # of a beginning that fails nothing stays
        undo.callback(shutil.rmtree, run.path, ignore_errors=True)
        lock = undo.enter_context(RunLock(run.path))
        _write_down(run, bench)
        undo.pop_all()
    return Opened(bench=bench, run=run, lock=lock, progress=Progress())


def _write_down(run: RunDirectory, bench: Workbench) -> None:
    """Write down what a run is made of."""
    config = bench.config
    write_text(run.config, _anywhere(bench).to_toml())
    # As they were, wherever they came from: for the run to go on, and for later evaluations.
    write_lines(run.tasks, (task.row for task in bench.train_tasks))
    write_lines(run.heldout, (task.row for task in bench.heldout_tasks))
    start_record(
        run,
        config=config.model_dump(mode="json"),
        env=bench.source.classes,
        env_id=bench.source.id,
        tasks=_rows((bench.train_tasks, bench.heldout_tasks)),
        model_path=config.model.path,
        sampling={"train": {"temperature": config.rollout.temperature}, "eval": config.eval.model_dump(mode="json")},
        numbers=bench.numbers() | {"processor": processor()},
        scoring=bench.rewarding.hashes if bench.rewarding is not None else None,
        environment=bench.source.facts(bench.train_tasks[0].row),
        inexact=bench.inexact(),
    )


def _anywhere(bench: Workbench) -> Config:
    """Return the configuration as it can be read from any folder."""
    env = {"env": env_reference(bench.config, bench.source)}
    return bench.config.model_copy(update=env | (bench.rewarding.references() if bench.rewarding is not None else {}))


def reopen(path: str | Path, given: Given, reporter: Reporter) -> Opened:
    """Bring a run that was stopped, or killed, back to where it can go on.

    Raises:
        UserError: it cannot go on as the same run; the message says what differs.
    """
    run = RunDirectory.open(path)
    with ExitStack() as undo:
        lock = undo.enter_context(RunLock(run.path))
        record = run.read_record()
        if not record or not run.config.is_file():
            raise UserError(f"'{run.path}' was stopped before it began, there is nothing to go on with: train anew.")
        if "endpoint" in record:
            raise UserError(f"'{run.path}' is an evaluation of {record['endpoint']['model']}: it trains nothing")
        config = _config(run, given)
        check_trackers(config.train.track)
        checkpoints = Checkpoints(folder=run.checkpoints, keep=config.train.keep_checkpoints)
        checkpoints.sweep()
        checkpoint = _checkpoint(checkpoints, reporter)
        bench, changes = _bench(run, record, config, given)
        progress = restore(checkpoint, bench.policy, bench.learner) if checkpoint else Progress()
        _check_there_is_more(run, record, config, progress)
        finished = _episodes(run, progress, record, reporter)
        if progress.stream is not None and progress.stream["held"]:
            changes.append(f"groups that were open go on under the policy of step {progress.step}")
        for change in changes:
            reporter.message(f"note: {change}: what follows may differ from what an uninterrupted run would have made")
        write_text(run.config, _anywhere(bench).to_toml())
        resume_record(
            run,
            step=progress.step,
            changes=changes,
            config=config.model_dump(mode="json"),
            inexact=bench.inexact(),
        )
        undo.pop_all()
    return Opened(bench=bench, run=run, lock=lock, progress=progress, finished=finished)


def program() -> str:
    """Return what to type for `agentgrpo` here: its path, when the environment it is in is not activated."""
    beside = Path(sys.executable).with_name("agentgrpo")
    return "agentgrpo" if shutil.which("agentgrpo") or not beside.exists() else os.path.relpath(beside)


def _config(run: RunDirectory, given: Given) -> Config:
    """Return the run's configuration with the changes that are allowed.

    Raises:
        ConfigError: something else would be another.
    """
    kept = load_config(run.config)
    wanted = load_config(given.config if given.config is not None else kept, overrides=given.overrides)
    asked = {override.partition("=")[0].strip() for override in given.overrides}
    old, new = (dict(_flat(config.model_dump(mode="json"))) for config in (kept, wanted))
    changes = {key: value for key, value in new.items() if old.get(key) != value}
    # A config given once more names its parts as it did then: from another folder, by another name.
    changes = {key: value for key, value in changes.items() if key not in PLACES or key in asked}
    fixed = sorted(changes.keys() - FREE - PLACES)
    if fixed:
        lines = [f"{key} was {old.get(key)!r}, cannot become {changes[key]!r}" for key in fixed]
        raise ConfigError(
            f"a run goes on as it began: {'; '.join(lines)}. May change: {', '.join(sorted(FREE))}. "
            "For other settings start a new run."
        )
    if "train.steps" in changes and kept.learner.schedule != "constant":
        raise ConfigError(
            f"train.steps was {kept.train.steps}, cannot become {wanted.train.steps}: the learning rate of every step "
            f'made so far depends on it (learner.schedule = "{kept.learner.schedule}").'
        )
    data = kept.model_dump(mode="python", exclude_unset=True)
    here = run.model_folder()
    for key, value in (({"model.path": here} if here else {}) | changes | _given_env(given)).items():
        section, _, leaf = key.rpartition(".")
        if section:
            data[section] = {**data.get(section, {}), leaf: value}
        else:
            data[leaf] = value
    return validate(Config, data)


def _given_env(given: Given) -> dict[str, Any]:
    return {"env": given.env} if isinstance(given.env, str) else {}


def _flat(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the keys of a configuration, "section.key" for those of a section."""
    for key, value in data.items():
        if isinstance(value, dict) and key not in ("env_args", "reward_weights"):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _checkpoint(checkpoints: Checkpoints, reporter: Reporter) -> Path | None:
    """Return the newest checkpoint that is whole; None when none was written yet."""
    found, damaged = checkpoints.newest()
    for name, problem in damaged.items():
        reporter.message(f"checkpoint {name} is damaged ({problem}): not used")
    if found is None and damaged:
        raise UserError(
            f"no checkpoint in '{checkpoints.folder}' is whole. Restore one from a copy, or train anew with the run's "
            "config.toml."
        )
    return found


def _bench(run: RunDirectory, record: JsonObject, config: Config, given: Given) -> tuple[Workbench, list[str]]:
    """Return the parts of the run, and what of them is not as it was but may be so.

    Raises:
        UserError: what may not.
    """
    set_threads(config)
    hashes = record["hashes"]
    if given.env is None and is_unreachable(config.env):
        name = config.env.rpartition(":")[2]
        raise EnvError(
            f"the environment {name} was given as a class that no name can reach from here: pass it, "
            f"agentgrpo.train(resume={str(run.path)!r}, env={name}), or name it: --set env=file.py:{name}"
        )
    source = open_env(config, given.env)
    train, heldout = _tasks(run, hashes["tasks"], config, source, given)
    folder = Path(config.model.path)
    if hashes["model"] is not None and (not folder.is_dir() or hash_folder(folder) != hashes["model"]):
        what = "is not there any more" if not folder.is_dir() else "has other files or weights than when the run began"
        raise ModelError(f"the model in '{folder}' {what}: put the same one there, or --set model.path=FOLDER")
    changes = version_changes(record["versions"])
    if hash_sources(source.classes) != hashes["env_source"]:
        changes.append(f"the code of the environment {source.id} was changed")
    bench = assemble(config, source, train, heldout)
    changes += bench.rewarding.changes(hashes) if bench.rewarding is not None else []
    return bench, changes + number_changes(bench.policy, record)


def number_changes(policy: LoraPolicy, record: JsonObject) -> list[str]:
    """Return what a policy's last bits depend on and is not as it was when a run began."""
    now, then = numbers_of(policy) | {"processor": processor()}, record.get("numbers", {})
    return [f"the {key} was {was}, is {now.get(key)}" for key, was in then.items() if now.get(key) != was]


def _tasks(run: RunDirectory, hashes: Mapping[str, str], config: Config, source: EnvSource, given: Given) -> Tasks:
    """Return the run's tasks: those kept in its folder, else where they came from, if they are still the same."""
    if given.tasks is None and given.heldout is None:
        with suppress(TaskError):  # damaged
            kept = _read_tasks(run.tasks), _read_tasks(run.heldout)
            if _task_hashes(kept) == hashes:
                return kept
    # Not kept (with a secret in them), or damaged: the same ones may still be where they were.
    again = open_tasks(config, source, given.tasks, given.heldout)
    if _task_hashes(again) != hashes:
        raise TaskError(
            f"the tasks are not those the run in '{run.path}' began with: pass the same ones (tasks=, heldout=), or "
            f"restore {run.tasks.name} and {run.heldout.name}"
        )
    return again


def _read_tasks(path: Path) -> tuple[Task, ...]:
    return () if path.is_file() and not path.stat().st_size else load_tasks(path)


def _rows(tasks: Tasks) -> dict[str, list[JsonObject]]:
    return {split: [task.row for task in part] for split, part in zip(("train", "heldout"), tasks, strict=True)}


def _task_hashes(tasks: Tasks) -> dict[str, str]:
    return {split: hash_json(rows) for split, rows in _rows(tasks).items()}


def version_changes(then: JsonObject) -> list[str]:
    """Return which packages are of another version than when the run began."""
    now = versions()
    before, after = ({"python": v["python"], **v["packages"]} for v in (then, now))
    names = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    changes = [f"{name} {before.get(name, 'absent')} -> {after.get(name, 'absent')}" for name in names]
    return [f"versions differ ({', '.join(changes)})"] if changes else []


def _check_there_is_more(run: RunDirectory, record: JsonObject, config: Config, progress: Progress) -> None:
    """Raise UserError when nothing is left to do."""
    if record["status"] != "finished":
        return
    hours = config.train.max_hours
    is_late = hours is not None and progress.elapsed >= hours * 3600
    if progress.step < config.train.steps and not is_late:
        return
    more = f"--max-hours {2 * hours:g}" if hours is not None and is_late else f"--set train.steps={2 * progress.step}"
    raise UserError(
        f"the run in '{run.path}' is finished ({progress.step} train steps). To train it for longer: "
        f"{program()} train --resume {shlex.quote(str(run.path))} {more}"
    )


def _episodes(
    run: RunDirectory, progress: Progress, record: JsonObject, reporter: Reporter
) -> dict[EpisodeKey, Trajectory]:
    """Return the finished episodes that may still be trained; those of later policies are made again.

    A run that failed tries again what had failed, was cut off, or had no score: as it was it would only fail once more.
    """
    told = mend(run.episodes)
    if told:
        reporter.message(told)
    EpisodeStore(run.episodes).close()
    forget_after(run.episodes, progress.step)
    with EpisodeReader(run.episodes) as reader:
        versions = range(progress.oldest_version, progress.step + 1)
        found = {key: t for version in versions for key, t in reader.of_policy(version).items()}
    if record["status"] != "failed":
        return found
    again = (StopReason.FAILED, StopReason.CANCELLED)
    return {k: t for k, t in found.items() if t.is_scored and t.stop_reason not in again}


def is_unreachable(reference: str) -> bool:
    """Whether only the process that defined an environment can find it by this name."""
    place, _, name = reference.rpartition(":")
    return place == "local" or (place == "__main__" and not hasattr(sys.modules["__main__"], name))
