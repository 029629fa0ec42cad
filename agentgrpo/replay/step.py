"""A train step made again from the record alone, and compared to the last bit with what it once made.

The record has the episodes, the groups in the order they were trained, and checkpoints now and then. Adapter and
optimizer as they were before the step come from the newest checkpoint before it (or from the beginning), the steps
between are made again as well. Neither an environment nor an engine is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agentgrpo.errors import ModelError, UserError
from agentgrpo.learner.policy import LoraPolicy
from agentgrpo.learner.step import Learner
from agentgrpo.replay.made import Difference, Made, first_difference
from agentgrpo.replay.recorded import model_notes, open_config
from agentgrpo.run.checkpoint import Checkpoints, damage
from agentgrpo.run.opening import number_changes, version_changes
from agentgrpo.run.report import Reporter, SilentReporter
from agentgrpo.run.trainer_state import restore
from agentgrpo.run.workbench import load_base, open_learner, set_threads
from agentgrpo.store.reader import EpisodeReader
from agentgrpo.store.rows import EpisodeFilter
from agentgrpo.store.run import RunDirectory, read_metrics
from agentgrpo.store.train_steps import TrainedGroup, TrainStep, read_train_steps
from agentgrpo.types import EpisodeKey, Group, JsonObject, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeated:
    """What came of making a step again."""

    step: int
    start: int  # the step whose end it was made from; 0: the beginning
    compared: tuple[str, ...]  # in words, of the step itself
    metrics: Mapping[str, float]  # of the step as it was made now
    difference: Difference | None  # the first one, of this step or of one before it
    notes: tuple[str, ...] = ()  # why a difference need not be a fault


def repeat_step(
    run: str | Path, step: int, *, overrides: Sequence[str] = (), reporter: Reporter | None = None
) -> Repeated:
    """Make a train step of a run again from its record, and compare what it makes with what it once made.

    On the CPU, in float32, everything is the same to the last bit.

    Args:
        run: The run's folder, or a folder of runs (the newest is taken).
        step: The train step, from 1.
        overrides: "section.key=value" strings, such as "model.path=FOLDER".
        reporter: Where progress goes.

    Raises:
        UserError: it cannot be made again, and what the record lacks for it.
    """
    tell = reporter or SilentReporter()
    directory, record, config = open_config(run, overrides)
    steps = _recorded_steps(directory, record, step)
    for note in model_notes(config, record):
        raise ModelError(f"{note}: a step of its can only be made again with the same one (--set model.path=FOLDER)")
    set_threads(config)
    policy, learner = open_learner(config, load_base(config))
    start = _go_to(directory, step - 1, policy, learner, tell)
    notes = (*number_changes(policy, record), *version_changes(record["versions"]))
    for note in notes:
        tell.message(f"note: {note}")
    missing = [number for number in range(start + 1, step + 1) if number not in steps]
    if missing:
        raise UserError(f"the record lacks train step {missing[0]}, which step {step} builds on")
    with EpisodeReader(directory.episodes) as reader, tell.progress("train steps", step - start) as advance:
        known = {row["step"]: row for row in read_metrics(directory.metrics)}
        for number in range(start + 1, step + 1):
            made = _make(reader, directory, steps[number], known.get(number, {}), policy, learner)
            advance(1)
            difference = first_difference(made)
            if difference is not None or number == step:
                break
    return Repeated(
        step=step,
        start=start,
        compared=made.compared(),
        metrics=made.learned.metrics,
        difference=difference,
        notes=notes,
    )


def _recorded_steps(run: RunDirectory, record: JsonObject, step: int) -> dict[int, TrainStep]:
    """Return the train steps on record, this one among them."""
    if "endpoint" in record:
        raise UserError(f"'{run.path}' is an evaluation of {record['endpoint']['model']}: it trained nothing")
    steps = read_train_steps(run.episodes)
    if step in steps:
        return steps
    if steps:
        raise UserError(f"step {step} is not on record: '{run.path}' made the steps {min(steps)} to {max(steps)}")
    with EpisodeReader(run.episodes) as reader:
        trained = reader.list(EpisodeFilter(phase="train"), order="advantage", limit=1)  # those with one come first
    if not trained or trained[0].advantage is None:
        raise UserError(f"'{run.path}' has made no train step yet")
    raise UserError(
        f"'{run.path}' is from before train steps were kept: its record does not say which groups a step trained, nor "
        "in which order, so none can be made again"
    )


def _go_to(run: RunDirectory, step: int, policy: LoraPolicy, learner: Learner, reporter: Reporter) -> int:
    """Bring policy and learner to the newest checkpoint up to a step; return its step, 0 for the beginning."""
    for path in sorted(run.checkpoints.glob("step-*"), reverse=True):
        number = int(path.name.removeprefix("step-"))
        if number > step:
            continue
        problem = damage(path)
        if problem is None:
            restore(path, policy, learner)
            return number
        reporter.message(f"note: checkpoint {path.name} is damaged ({problem}): not used")
    return 0


def _make(
    reader: EpisodeReader,
    run: RunDirectory,
    step: TrainStep,
    metrics: JsonObject,
    policy: LoraPolicy,
    learner: Learner,
) -> Made:
    groups = [_group(reader, group) for group in step.groups]
    rows = {row.key: row for group in step.groups for row in reader.group(_key(group))}
    learned = learner.step(groups)
    folder = Checkpoints(folder=run.checkpoints, keep=1).path(f"step-{step.step:06d}")
    return Made(
        step=step.step,
        learned=learned,
        adapter=policy.adapter(),
        optimizer=learner.state().tensors,
        metrics=metrics,
        rows=rows,
        adapter_sha256=step.adapter_sha256,
        checkpoint=folder if folder is not None and damage(folder) is None else None,
    )


def _group(reader: EpisodeReader, group: TrainedGroup) -> Group:
    """Return a group as it was trained: its scored episodes, by sample and attempt."""
    found = [reader.get(row.id).trajectory for row in reader.group(_key(group))]
    scored = tuple(trajectory for trajectory in found if trajectory.is_scored)
    if len(scored) != group.episodes:
        raise UserError(
            f"the record has {len(scored)} scored episodes of train/{group.step}/{group.task_id}, {group.episodes} "
            "were trained: the step cannot be made again without them"
        )
    return Group(task=Task(id=group.task_id, row={}), trajectories=scored)


def _key(group: TrainedGroup) -> EpisodeKey:
    return EpisodeKey(phase="train", step=group.step, task_id=group.task_id, sample=0)
