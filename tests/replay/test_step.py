"""A train step made again from its record is the step that was made, to the last bit; what is not is named."""

from __future__ import annotations

import json
import math
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from agentgrpo.errors import ModelError, UserError
from agentgrpo.replay.step import repeat_step
from agentgrpo.run.checkpoint import MANIFEST, Checkpoints, damage
from agentgrpo.run.report import SilentReporter
from agentgrpo.store import EpisodeFilter, EpisodeReader, EpisodeStore, RunDirectory, read_metrics
from agentgrpo.training import train
from tests.replay.runs import oracle_run
from tests.small import small_model, small_run


class Notes(SilentReporter):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)


def drop_checkpoints(run: RunDirectory, *steps: int) -> None:
    for step in steps:
        shutil.rmtree(run.checkpoints / f"step-{step:06d}")


def rewrite(run: RunDirectory, step: int, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Write a checkpoint's adapter with something else in it, as a whole checkpoint."""
    folder = run.checkpoints / f"step-{step:06d}"
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != MANIFEST}
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    shutil.rmtree(folder)

    def write(path: Path) -> None:
        for name, content in files.items():
            (path / name).write_bytes(content)
        save_file(tensors, path / "adapter_model.safetensors")

    Checkpoints(folder=run.checkpoints, keep=9).save(step, write)
    assert damage(folder) is None


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_step_is_the_same_to_the_last_bit(step: int, as_trained: RunDirectory) -> None:
    notes = Notes()
    made = repeat_step(as_trained.path, step, reporter=notes)
    assert (made.step, made.start, made.difference, made.notes, notes.lines) == (step, step - 1, None, (), [])
    assert made.compared[-3:] == ("the adapter's hash", "every weight of the adapter", "every number of the optimizer")
    recorded = next(row for row in read_metrics(as_trained.metrics) if row["step"] == step)
    for name in ("loss", "grad_norm"):
        assert made.metrics[name] == recorded[f"train/{name}"] != 0


def test_steps_without_a_checkpoint_are_made_from_an_earlier_one(own: RunDirectory) -> None:
    drop_checkpoints(own, 1, 2)
    made = repeat_step(own.path, 3)
    assert (made.start, made.difference) == (0, None)
    assert "every weight of the adapter" in made.compared
    again = repeat_step(own.path, 2)
    assert (again.start, again.difference, again.compared[-1]) == (0, None, "the adapter's hash")


def test_it_needs_neither_the_environment_nor_its_tasks(own: RunDirectory) -> None:
    own.tasks.unlink()
    own.heldout.unlink()
    assert repeat_step(own.path, 1, overrides=["env=no_such_module:Nowhere"]).difference is None


def test_one_bit_of_a_weight_is_found(own: RunDirectory) -> None:
    def flip(tensors: dict[str, torch.Tensor]) -> None:
        weight = tensors[sorted(tensors)[-1]].flatten()
        weight.view(torch.int32)[5] ^= 1

    rewrite(own, 1, flip)
    difference = repeat_step(own.path, 1).difference
    assert difference is not None
    name = sorted(load_file(own.checkpoints / "step-000001" / "adapter_model.safetensors"))[-1]
    assert difference.what == f"adapter {name}, number 5"
    assert isinstance(difference.expected, float)
    assert isinstance(difference.got, float)
    assert difference.expected == pytest.approx(difference.got, rel=1e-5)


def test_a_weight_that_is_not_there_is_found(own: RunDirectory) -> None:
    def remove(tensors: dict[str, torch.Tensor]) -> None:
        del tensors[min(tensors)]

    rewrite(own, 1, remove)
    difference = repeat_step(own.path, 1).difference
    assert difference is not None
    assert (difference.expected, type(difference.got)) == (None, str)


def test_another_logprob_of_one_token_is_another_step(own: RunDirectory) -> None:
    with EpisodeReader(own.episodes) as reader:
        rows = reader.list(EpisodeFilter(phase="train", step=2), limit=100)
        row = next(row for row in rows if row.advantage and row.filter_reason is None)
        trajectory = reader.get(row.id).trajectory
    spans = list(trajectory.spans)
    place, span = next((i, s) for i, s in enumerate(spans) if s.sampled)
    assert span.logprobs is not None
    spans[place] = replace(span, logprobs=(span.logprobs[0] - 0.125, *span.logprobs[1:]))
    with EpisodeStore(own.episodes) as store:
        store.add_sync([replace(trajectory, spans=tuple(spans))])
    difference = repeat_step(own.path, 2).difference
    assert difference is not None
    assert (difference.step, difference.what) == (2, "train/loss")


@pytest.mark.parametrize("name", ["train/loss", "train/grad_norm", "train/entropy"])
def test_the_last_digit_of_a_metric_counts(name: str, own: RunDirectory) -> None:
    rows = read_metrics(own.metrics)
    row = next(row for row in rows if name in row)
    recorded = row[name]
    row[name] = math.nextafter(recorded, math.inf)
    own.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    difference = repeat_step(own.path, row["step"]).difference
    assert difference is not None
    assert (difference.what, difference.expected, difference.got) == (name, row[name], recorded)


def test_a_difference_in_a_step_before_is_named_as_that_steps(own: RunDirectory) -> None:
    drop_checkpoints(own, 1, 2)
    execute(own, "UPDATE episodes SET advantage = advantage + 1 WHERE phase = 'train' AND step = 1")
    difference = repeat_step(own.path, 3).difference
    assert difference is not None
    assert (difference.step, difference.what.startswith("advantage of train/1/")) == (1, True)


def execute(run: RunDirectory, sql: str) -> None:
    with closing(sqlite3.connect(run.episodes)) as connection, connection:
        connection.execute(sql)


@pytest.mark.parametrize(
    ("sql", "step", "told"),
    [
        ("SELECT 1", 4, "step 4 is not on record: .* made the steps 1 to 3"),
        ("SELECT 1", 0, "step 0 is not on record"),
        ("DELETE FROM train_steps", 1, "is from before train steps were kept"),
        (
            "DELETE FROM episodes WHERE phase = 'train' AND step = 2 AND sample = 0",
            2,
            r"has 5 scored episodes .* 6 were",
        ),
    ],
)
def test_what_cannot_be_made_again_is_one_message(sql: str, step: int, told: str, own: RunDirectory) -> None:
    execute(own, sql)
    with pytest.raises(UserError, match=told):
        repeat_step(own.path, step)


def test_a_step_between_that_is_lost_is_named(own: RunDirectory) -> None:
    drop_checkpoints(own, 1, 2)
    execute(own, "DELETE FROM train_steps WHERE step = 1")
    with pytest.raises(UserError, match="lacks train step 1, which step 3 builds on"):
        repeat_step(own.path, 3)


def test_a_damaged_checkpoint_is_said_and_not_used(own: RunDirectory) -> None:
    (own.checkpoints / "step-000001" / "adapter_model.safetensors").write_bytes(b"x")
    notes = Notes()
    made = repeat_step(own.path, 2, reporter=notes)
    assert (made.start, made.difference) == (0, None)
    assert notes.lines == [
        "note: checkpoint step-000001 is damaged (adapter_model.safetensors is not what was written): not used"
    ]


def test_another_model_cannot_make_the_step_again(own: RunDirectory, tiny_folder: Path) -> None:
    with pytest.raises(ModelError, match="has other files or weights"):
        repeat_step(own.path, 1, overrides=[f"model.path={tiny_folder}"])
    with pytest.raises(UserError, match="is not there any more"):
        repeat_step(own.path, 1, overrides=["model.path=/nowhere"])


def test_a_run_that_trained_nothing_says_so(tmp_path: Path, tiny_folder: Path) -> None:
    run = oracle_run(tmp_path, "lockbox", tasks=1, samples=1, model=tiny_folder)
    with pytest.raises(UserError, match="has made no train step yet"):
        repeat_step(run.path, 1)


def test_other_versions_are_noted_beside_the_result(own: RunDirectory) -> None:
    record = own.read_record()
    record["versions"]["packages"]["torch"] = "0.0.1"
    record["numbers"]["threads"] = 7
    own.record.write_text(json.dumps(record))
    made = repeat_step(own.path, 1)
    assert made.difference is None
    assert [note.startswith(("the threads was 7", "versions differ (torch 0.0.1 ->")) for note in made.notes] == [
        True
    ] * 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "learner",
    [
        {"minibatches": 2, "tokens_per_microbatch": 200, "schedule": "cosine", "warmup_steps": 1},
        {"algorithm": "grpo", "beta": 0.05},
        {"old_logprobs": "learner", "importance_level": "turn"},
        {"scale_rewards": "batch", "loss_type": "cispo", "drop_zero_variance": False},
    ],
    ids=lambda learner: "-".join(learner),
)
def test_a_step_is_the_same_however_the_learner_is_set(
    learner: dict[str, Any], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    model = small_model(tmp_path_factory.getbasetemp(), "lockbox")
    config = small_run(model, tmp_path, eval={"tasks": 2, "every": 0}, learner={"learning_rate": 5e-3, **learner})
    config["train"] |= {"steps": 4, "checkpoint_every": 3, "keep_checkpoints": 9}
    config["model"] |= {"lora": {"rank": 4, "dropout": 0.1}}
    run = train(config, reporter=SilentReporter()).path
    for step, start in ((1, 0), (2, 0), (3, 0), (4, 3)):
        made = repeat_step(run, step)
        assert (made.start, made.difference) == (start, None)
