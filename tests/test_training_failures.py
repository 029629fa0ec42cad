"""Runs that end badly, and what is wrong said before anything is made."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import agentgrpo as ag
from agentgrpo.config.run import load_config
from agentgrpo.engines.embedded import EmbeddedEngine
from agentgrpo.errors import ConfigError, EngineFailure, EnvError, ModelError, RunError, TaskError, UserError
from agentgrpo.evaluate.run import evaluate_checkpoint
from agentgrpo.run.checkpoint import Checkpoints
from agentgrpo.run.report import SilentReporter
from agentgrpo.run.workbench import open_env, open_tasks
from agentgrpo.store import EpisodeReader, EpisodeStore
from agentgrpo.store.episodes import TrainingRow
from agentgrpo.store.run import read_metrics
from agentgrpo.training import train
from agentgrpo.types import Policy
from tests.small import only_run, record_of, small_model, small_run

SILENT = SilentReporter()


@pytest.fixture(scope="module")
def lockbox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.getbasetemp(), "lockbox")


# Runs that end badly


class Broken(ag.ToolEnv):
    """Is down."""

    @classmethod
    def tasks(cls, split: str = "train") -> list[dict[str, Any]]:
        return [{"task_id": f"{split}-{i}", "bad": split == "train"} for i in range(4)]

    def reset_task(self, task: dict[str, Any]) -> str:
        if task["bad"]:
            raise ag.ToolFailure("the database is asleep")
        return "digit: 3"

    @ag.tool
    def press(self, digit: int) -> str:
        """Press one digit."""
        return "done"

    def reward(self) -> float:
        return 0.0


def test_an_environment_that_is_down_stops_the_run_with_the_cause(lockbox: Path, tmp_path: Path) -> None:
    config = small_run(lockbox, tmp_path, env="", env_args={}, eval={})
    config["rollout"] |= {"retries": 1}
    with pytest.raises(RunError, match=r"8 of 8 episodes .* \(16 of 16 failed attempts\), tool: the datab"):
        train(config, env=Broken, reporter=SILENT)
    run = only_run(tmp_path)
    record = record_of(run)
    assert record["status"] == "failed"
    assert "the database is asleep" in record["cause"]
    assert record["episodes"]["by_stop_reason"]["failed"] == 16
    assert (run / "checkpoints" / "last" / "adapter_model.safetensors").is_file()


class Asleep(Broken):
    """Does not answer for longer than anybody waits."""

    @classmethod
    def tasks(cls, split: str = "train") -> list[dict[str, Any]]:
        return [{"task_id": f"{split}-{i}"} for i in range(4)] if split == "train" else []

    def reset_task(self, task: dict[str, Any]) -> str:
        time.sleep(30)
        return "late"


def test_a_run_that_does_not_move_is_stopped_with_the_cause(lockbox: Path, tmp_path: Path) -> None:
    limits = {"steps": 1, "runs": str(tmp_path), "stall_seconds": 1, "stop_stalled_seconds": 3}
    config = small_run(lockbox, tmp_path, env="", env_args={}, eval={}, train=limits)
    with pytest.raises(RunError, match=r"stopped: no progress for 3 s in rollout: 8 wait for reset; the longest, "):
        train(config, env=Asleep, reporter=SILENT)
    run = only_run(tmp_path)
    assert record_of(run)["status"] == "failed"
    assert "8 wait for reset" in record_of(run)["cause"]
    assert "time.sleep(30)" in next(run.glob("stall-*.txt")).read_text()
    assert (run / "checkpoints" / "last" / "adapter_model.safetensors").is_file()


class HalfBroken(Broken):
    """Is down for one task of two."""

    @classmethod
    def tasks(cls, split: str = "train") -> list[dict[str, Any]]:
        return [{"task_id": f"{split}-{i}", "bad": i == 0} for i in range(2)] if split == "train" else []


def test_a_group_with_too_few_survivors_trains_nothing_the_others_do(lockbox: Path, tmp_path: Path) -> None:
    config = small_run(lockbox, tmp_path, env="", env_args={}, train={"steps": 1, "runs": str(tmp_path)}, eval={})
    config["rollout"] |= {"retries": 0}
    run = train(config, env=HalfBroken, reporter=SILENT)
    (metrics,) = read_metrics(run.path / "metrics.jsonl")
    assert metrics["train/failed"] == 4
    with EpisodeReader(run.path / "episodes.sqlite") as reader:
        rows = reader.list(limit=99)
    assert {(r.task_id, r.stop_reason == "failed", r.advantage is None) for r in rows} == {
        ("train-0", True, True),
        ("train-1", False, False),
    }


class Interrupts(SilentReporter):
    """Interrupts the run at a step or a message, once, as Ctrl-C would."""

    def __init__(self, at: str) -> None:
        self.at = at

    def message(self, text: str) -> None:
        self._maybe(text)

    def step(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        self._maybe(f"step {step}")

    def _maybe(self, what: str) -> None:
        if re.search(self.at, what):
            self.at = "(?!)"
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("at", "step"), [("success before", 0), ("^step 1$", 1), ("success step 1", 1), ("success after", 2)]
)
def test_an_interrupted_run_keeps_its_adapter_and_says_so(lockbox: Path, tmp_path: Path, at: str, step: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(small_run(lockbox, tmp_path), reporter=Interrupts(at))
    run = only_run(tmp_path)
    record = record_of(run)
    assert record["status"] == "interrupted"
    assert record["ended_at"] is not None
    last = Checkpoints(folder=run / "checkpoints", keep=1).path("last")
    assert last is not None
    assert last.name == f"step-{step:06d}"
    found = evaluate_checkpoint(run, checkpoint="last", overrides=["eval.tasks=1"], reporter=SILENT)
    assert found.episodes == 1


async def test_so_does_one_in_a_notebook(lockbox: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(small_run(lockbox, tmp_path), reporter=Interrupts("^step 1$"))
    assert record_of(only_run(tmp_path))["status"] == "interrupted"


def test_what_was_stored_is_not_lost_when_the_learner_fails(
    lockbox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(self: EpisodeStore, rows: list[TrainingRow]) -> None:
        raise RunError("the disk is full")

    monkeypatch.setattr(EpisodeStore, "set_training", full)
    with pytest.raises(RunError, match="the disk is full"):
        train(small_run(lockbox, tmp_path), reporter=SILENT)
    record = record_of(only_run(tmp_path))
    assert (record["status"], record["cause"], record["episodes"]["total"]) == ("failed", "the disk is full", 12)


def test_what_breaks_in_a_task_group_comes_out_as_itself(
    lockbox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(self: EpisodeStore, trajectories: list[ag.Trajectory]) -> None:
        raise RunError("the disk is full")

    monkeypatch.setattr(EpisodeStore, "add", full)
    with pytest.raises(RunError, match="the disk is full"):
        train(small_run(lockbox, tmp_path), reporter=SILENT)
    assert record_of(only_run(tmp_path))["cause"] == "the disk is full"


def test_an_engine_that_breaks_between_episodes_is_the_runs_failure(
    lockbox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(self: EmbeddedEngine, policy: Policy) -> None:
        raise EngineFailure("its process has died")

    monkeypatch.setattr(EmbeddedEngine, "retire", broken)
    with pytest.raises(RunError, match="the engine broke: its process has died"):
        train(small_run(lockbox, tmp_path), reporter=SILENT)
    record = record_of(only_run(tmp_path))
    assert (record["status"], record["cause"]) == ("failed", "the engine broke: its process has died")


# What is wrong is said before anything is made


@pytest.mark.parametrize(
    ("more", "error", "said"),
    [
        ({"env": ""}, ConfigError, 'no environment: set env = "shop"'),
        ({"env": "lokbox"}, EnvError, "Did you mean 'lockbox'"),
        ({"env_args": {"turnz": 2}}, EnvError, "turnz"),
        ({"tasks": "nowhere.jsonl"}, TaskError, "cannot read the tasks in nowhere.jsonl: No such file or directory"),
        ({"heldout": "tset"}, TaskError, "the lockbox has no split 'tset', it has train, heldout"),
        ({"heldout": "train"}, TaskError, "1000 tasks are both trained on and held out"),
        ({"heldout": 1000}, TaskError, "cannot hold out 1000 of 1000 tasks"),
        ({"rollout": {"tasks_per_step": 1001}}, TaskError, "tasks_per_step = 1001, but there are 1000 training tasks"),
    ],
)
def test_a_users_mistake_leaves_no_run_behind(
    lockbox: Path, tmp_path: Path, more: dict[str, Any], error: type[UserError], said: str
) -> None:
    with pytest.raises(error) as caught:
        train(small_run(lockbox, tmp_path / "runs", **more), reporter=SILENT)
    assert said in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_a_model_that_is_not_there_leaves_no_run_behind(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot load a causal language model from 'nowhere'"):
        train(small_run(Path("nowhere"), tmp_path / "runs"), reporter=SILENT)
    assert not (tmp_path / "runs").exists()


def test_a_tracker_that_is_missing_is_found_before_a_model_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    config = small_run(Path("nowhere"), tmp_path / "runs", train={"track": ["wandb"]}, warm_start={})
    with pytest.raises(ConfigError, match="'wandb', which is not installed"):
        train(config, reporter=SILENT)


def test_a_held_out_name_that_is_nothing_is_an_error_also_without_splits() -> None:
    rows = [{"task_id": "a"}, {"task_id": "b"}]
    config = load_config({"env_args": {"tasks": rows}, "heldout": "missing.jsonl", "train": {"steps": 0}})
    with pytest.raises(TaskError, match=r"heldout = 'missing.jsonl' is neither a file that is there nor a split"):
        open_tasks(config, open_env(config, NoSplits), None, None)


class NoSplits(Broken):
    @classmethod
    def tasks(cls, split: str = "train") -> list[dict[str, Any]]:
        return []
