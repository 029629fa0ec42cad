"""Whole asynchronous runs: the same episodes as a synchronous one, each trained once, also when killed in between."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import agentgrpo as ag
from agentgrpo import training
from agentgrpo.errors import ConfigError, RunError
from agentgrpo.learner.step import Learner, LearnerState
from agentgrpo.rollout.stream import GroupStream
from agentgrpo.run.checkpoint import Checkpoints
from agentgrpo.run.report import SilentReporter
from agentgrpo.run.state import RunState
from agentgrpo.store import EpisodeReader, EpisodeStore
from agentgrpo.store.run import read_metrics
from agentgrpo.training import train
from agentgrpo.types import Group
from tests.small import small_model, small_run

SILENT = SilentReporter()
STEPS, BATCH, SIZE = 4, 2, 4


@pytest.fixture(scope="module")
def lockbox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.getbasetemp(), "lockbox")


def settings(model: Path, runs: Path, staleness: int = 2, **train: Any) -> dict[str, Any]:
    config = small_run(model, runs, eval={"tasks": 2, "every": 2, "during_tasks": 2})
    config["train"] |= {"steps": STEPS, "checkpoint_every": 1, "max_staleness": staleness, **train}
    return config


def trained(run: Path) -> list[str]:
    """Return the keys of the training episodes a step took, sorted."""
    with EpisodeReader(run / "episodes.sqlite") as reader:
        rows = [row for row in reader.list(limit=1000) if row.phase == "train"]
    assert all(row.advantage is not None for row in rows)
    return sorted(str(row.key) for row in rows)


@pytest.fixture(scope="module")
def finished(lockbox: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[ag.Run, dict[str, Path]]:
    """A run that nothing stopped, and copies of its folder: after a step was trained, and as episodes ended."""
    runs, copies = tmp_path_factory.mktemp("runs"), tmp_path_factory.mktemp("copies")
    taken: dict[str, Path] = {}
    lock, save = threading.Lock(), Checkpoints.save  # a folder that changes while it is copied is nobody's

    def saved(self: Checkpoints, *args: Any, **about: Any) -> Path:
        with lock:
            return save(self, *args, **about)

    def watch(patch: pytest.MonkeyPatch, method: str) -> None:
        original = getattr(EpisodeStore, method)

        async def watched(self: EpisodeStore, items: Sequence[Any]) -> None:
            await original(self, items)
            (run,) = runs.iterdir()
            name = f"{method}-{sum(name.startswith(method) for name in taken)}"
            with lock:
                taken[name] = Path(shutil.copytree(run, copies / name, symlinks=True))

        patch.setattr(EpisodeStore, method, watched)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "save", saved)
        watch(patch, "set_training")
        watch(patch, "add")
        return train(settings(lockbox, runs), reporter=SILENT), taken


def test_it_trains_the_episodes_of_a_synchronous_run_each_once(
    finished: tuple[ag.Run, dict[str, Path]], lockbox: Path, tmp_path: Path
) -> None:
    run, _ = finished
    synchronous = train(settings(lockbox, tmp_path, staleness=0), reporter=SILENT)
    assert trained(run.path) == trained(synchronous.path)
    assert run.summary["episodes"] == synchronous.summary["episodes"] == STEPS * BATCH * SIZE + 3 * 2
    records = [json.loads((path / "run.json").read_text()) for path in (run.path, synchronous.path)]
    assert [record["exact"] for record in records] == [False, True]
    assert "training is asynchronous (train.max_staleness)" in records[0]["inexact"][0]


def test_the_metrics_say_how_stale_and_what_was_waited_for(finished: tuple[ag.Run, dict[str, Path]]) -> None:
    steps = [line for line in read_metrics(finished[0].path / "metrics.jsonl") if "train/reward" in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4]
    for line in steps:
        shares = {int(key.rpartition("/")[2]): line[key] for key in line if key.startswith("train/staleness/")}
        assert sum(shares.values()) == pytest.approx(1)
        assert line["train/staleness"] == pytest.approx(sum(lag * share for lag, share in shares.items()))
        assert line["train/staleness_max"] == max(shares) <= 2
        assert line["rollout/versions"] <= 3
        assert {"rollout/carried_over", "rollout/ready", "time/wait_oldest", "train/groups_cut/deadline"} <= line.keys()
    assert steps[-1]["rollout/carried_over"] == steps[-1]["rollout/ready"] == 0


@pytest.mark.parametrize("moment", ["set_training-2", "add-20"])
def test_a_killed_run_goes_on_and_trains_nothing_twice(
    finished: tuple[ag.Run, dict[str, Path]], moment: str, tmp_path: Path
) -> None:
    run, copies = finished
    go_on(Path(shutil.copytree(copies[moment], tmp_path / "run", symlinks=True)), run)


@pytest.mark.slow
def test_whatever_the_moment(finished: tuple[ag.Run, dict[str, Path]]) -> None:
    run, copies = finished
    assert len(copies) > STEPS * BATCH * SIZE
    for copy in copies.values():
        go_on(copy, run)


def go_on(copy: Path, run: ag.Run) -> None:
    """Resume a copy of a run and hold it against the run that was not stopped."""
    checkpoint = copy / "checkpoints" / "last" / "trainer.json"
    progress: Any = json.loads(checkpoint.read_text())["progress"] if checkpoint.exists() else {"step": 0}
    step, stream = progress["step"], progress.get("stream", {"started": 0, "held": []})
    assert stream["started"] == step * BATCH + len(stream["held"])
    with EpisodeReader(copy / "episodes.sqlite") as reader:
        before = {str(row.key): row.id for row in reader.list(limit=1000) if row.policy_version <= step}
    again = train(resume=copy, reporter=SILENT)
    assert trained(again.path) == trained(run.path)
    with EpisodeReader(copy / "episodes.sqlite") as reader:
        rows = reader.list(limit=1000)
    assert before.items() <= {str(row.key): row.id for row in rows}.items(), "what had ended was run again"
    assert again.summary["episodes"] == len(rows) == run.summary["episodes"]
    assert again.summary["stop_reasons"] == {
        str(reason): sum(row.stop_reason == reason for row in rows) for reason in {row.stop_reason for row in rows}
    }
    record = json.loads((copy / "run.json").read_text())
    assert record["exact"] is False
    if stream["held"]:
        assert f"groups that were open go on under the policy of step {step}" in record["inexact"]


def test_hours_end_it_and_what_was_not_trained_is_counted(
    lockbox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RunState, "is_out_of_time", property(lambda state: state.step >= 2))
    run = train(settings(lockbox, tmp_path, steps=1000), reporter=SILENT)
    assert run.summary["train_steps"] == 2
    with EpisodeReader(run.path / "episodes.sqlite") as reader:
        assert reader.count() == run.summary["episodes"]
    assert json.loads((run.path / "run.json").read_text())["status"] == "finished"


def test_learning_does_not_starve_the_event_loop(
    lockbox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop answers in the middle of each train step, while the learner waits for that in its thread."""
    learn, step, answers, loops = training._learn, Learner.step, list[bool](), list[Any]()

    async def watched(state: RunState, groups: Sequence[Group]) -> Any:
        loops.append(asyncio.get_running_loop())
        return await learn(state, groups)

    def asking(self: Learner, *args: Any) -> Any:
        made, answered = step(self, *args), threading.Event()
        loops[-1].call_soon_threadsafe(answered.set)
        answers.append(answered.wait(30))
        return made

    copied, copy = [], Learner.state

    def copying(self: Learner) -> LearnerState:
        copied.append(threading.current_thread().name)
        return copy(self)

    monkeypatch.setattr(training, "_learn", watched)
    monkeypatch.setattr(Learner, "step", asking)
    monkeypatch.setattr(Learner, "state", copying)
    train(settings(lockbox, tmp_path, steps=6), reporter=SILENT)
    assert copied[1:] == ["agentgrpo-learner"] * 6, "the optimizer's state is large: not in the loop"
    assert answers == [True] * 6


def test_a_group_deadline_works_without_asynchrony_and_is_no_longer_exact(
    lockbox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(lockbox, tmp_path, staleness=0, steps=1)
    config["rollout"] |= {"group_seconds": 1e-6}
    with pytest.raises(RunError, match=r"no group kept enough .* 8 episodes met rollout.group_seconds: give groups"):
        train(config, reporter=SILENT)
    (run,) = tmp_path.iterdir()
    record = json.loads((run / "run.json").read_text())
    assert record["exact"] is False
    assert record["inexact"] == ["8 episodes met a deadline of the clock or failed"]
    assert record["episodes"]["by_stop_reason"]["cancelled"] == 8
    # What was cut off is tried again, with more time, or the run could never go on.
    again = train(resume=run, overrides=["rollout.group_seconds=600"], reporter=SILENT)
    assert len(trained(again.path)) == BATCH * SIZE
    assert "cancelled" not in again.summary["stop_reasons"]


def test_too_few_versions_for_the_staleness_are_refused() -> None:
    vllm = {"kind": "vllm", "vllm": {"max_live_versions": 2}}
    with pytest.raises(ConfigError, match=r"max_live_versions = 2 is too few for train.max_staleness = 2: set 4"):
        ag.load_config({"engine": vllm, "train": {"max_staleness": 2}})


def test_stopping_while_groups_run_keeps_the_last_whole_step(
    lockbox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = GroupStream.take

    async def stop(self: GroupStream, *args: Any) -> Any:
        assert self.policy is not None
        if self.policy.version == 2:
            raise KeyboardInterrupt
        return await take(self, *args)

    monkeypatch.setattr(GroupStream, "take", stop)
    with pytest.raises(KeyboardInterrupt):
        train(settings(lockbox, tmp_path), reporter=SILENT)
    monkeypatch.undo()
    (run,) = tmp_path.iterdir()
    assert (run / "checkpoints" / "last").resolve().name == "step-000002"
    assert len(trained(train(resume=run, reporter=SILENT).path)) == STEPS * BATCH * SIZE
