"""Whole runs on models made here: what they leave behind, how they end, that they repeat."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

import agentgrpo as ag
from agentgrpo.config.run import load_config
from agentgrpo.engines.embedded import EmbeddedEngine
from agentgrpo.errors import ConfigError, EngineFailure, EnvError, ModelError, RunError, TaskError, UserError
from agentgrpo.evaluate.run import evaluate_checkpoint
from agentgrpo.run.checkpoint import Checkpoints
from agentgrpo.run.report import SilentReporter
from agentgrpo.run.workbench import env_reference, open_env, open_tasks
from agentgrpo.store import EpisodeReader, EpisodeStore
from agentgrpo.store.episodes import TrainingRow
from agentgrpo.store.run import read_metrics
from agentgrpo.training import train
from agentgrpo.types import Policy
from tests.small import EXAMPLE, ROOT, small_model, small_run

SILENT = SilentReporter()
SUMMARY = {
    *("heldout_success_before", "heldout_success_after", "heldout_interval_before", "heldout_interval_after"),
    *("heldout_tasks", "wall_seconds", "train_steps", "episodes", "sampled_tokens", "episodes_per_second"),
    *("sampled_tokens_per_second", "seed", "stop_reasons", "troubles"),
}


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all test modules of a session share their models."""
    return tmp_path_factory.getbasetemp()


@pytest.fixture(scope="module")
def lockbox(base: Path) -> Path:
    return small_model(base, "lockbox")


@pytest.fixture(scope="module")
def finished(lockbox: Path, tmp_path_factory: pytest.TempPathFactory) -> ag.Run:
    """A run of two steps on the lockbox."""
    return train(small_run(lockbox, tmp_path_factory.mktemp("runs")), reporter=SILENT)


def record_of(run: Path) -> Any:
    return json.loads((run / "run.json").read_text())


def only_run(runs: Path) -> Path:
    (run,) = runs.iterdir()
    return run


# What a run leaves behind


def test_a_run_folder_holds_everything(finished: ag.Run) -> None:
    assert {p.name for p in finished.path.iterdir()} == {
        *("config.toml", "run.json", "episodes.sqlite", "metrics.jsonl", "summary.json", "curve.png", "checkpoints"),
        *("heldout.jsonl", "tasks.jsonl", ".lock"),
    }
    assert (finished.path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_the_summary_says_what_came_of_it(finished: ag.Run) -> None:
    summary = json.loads((finished.path / "summary.json").read_text())
    assert summary == finished.summary
    assert set(summary) == SUMMARY
    assert (summary["train_steps"], summary["heldout_tasks"], summary["seed"]) == (2, 4, 0)
    assert summary["episodes"] == 2 * 2 * 4 + 4 + 2 + 4
    assert sum(summary["stop_reasons"].values()) == summary["episodes"]
    assert 0.0 <= summary["heldout_success_before"] <= 1.0
    low, high = summary["heldout_interval_after"]
    assert low <= summary["heldout_success_after"] <= high


def test_the_record_and_the_store_agree_with_it(finished: ag.Run) -> None:
    record = record_of(finished.path)
    assert record["status"] == "finished"
    assert record["episodes"]["total"] == finished.summary["episodes"]
    assert record["tasks"] == {"train": 1000, "heldout": 200}
    with EpisodeReader(finished.path / "episodes.sqlite") as reader:
        rows = reader.list(limit=100)
    assert {(row.phase, row.step) for row in rows} == {
        *(("eval", 0), ("train", 1), ("eval", 1), ("train", 2), ("eval", 2)),
    }
    trained = [row for row in rows if row.phase == "train"]
    assert len(trained) == 16
    assert all(row.advantage is not None for row in trained)
    with EpisodeReader(finished.path / "episodes.sqlite") as reader:
        known = [(reader.get(row.id), row) for row in trained if row.filter_reason is None]
    assert known
    for stored, row in known:
        assert stored.entropies is not None
        assert stored.learner_logprobs is not None
        assert len(stored.entropies) == len(stored.learner_logprobs) == row.sampled_tokens
        assert all(0 < value < 8 for value in stored.entropies)


def test_the_metrics_have_a_line_per_step(finished: ag.Run) -> None:
    steps = read_metrics(finished.path / "metrics.jsonl")
    assert [line["step"] for line in steps] == [0, 1, 2]
    assert "eval/success" in steps[0]
    assert all({"train/reward", "train/loss", "time/rollout"} <= line.keys() for line in steps[1:])


def test_the_config_it_wrote_is_the_one_it_ran(finished: ag.Run, lockbox: Path) -> None:
    config = load_config(finished.path / "config.toml")
    assert config == load_config(small_run(lockbox, finished.path.parent))


def test_the_best_adapter_loads_in_plain_peft_and_is_the_recorded_one(finished: ag.Run, lockbox: Path) -> None:
    assert finished.adapter.parent.name == "checkpoints"
    model = AutoModelForCausalLM.from_pretrained(lockbox)
    ids = torch.arange(5).unsqueeze(0)
    with torch.no_grad():
        plain = model(ids).logits
        adapted = peft.PeftModel.from_pretrained(model, str(finished.adapter))(ids).logits
    assert not torch.equal(plain, adapted)
    last = finished.path / "checkpoints" / "last" / "trainer.json"
    assert json.loads(last.read_text())["adapter_sha256"] == record_of(finished.path)["adapter"]


def test_the_same_config_and_seed_make_the_same_adapter(lockbox: Path, tmp_path: Path) -> None:
    config = small_run(lockbox, tmp_path)
    hashes = [record_of(train(config, overrides=[s], reporter=SILENT).path)["adapter"] for s in ("seed=5",) * 2]
    other = record_of(train(config, overrides=["seed=6"], reporter=SILENT).path)["adapter"]
    assert hashes[0] == hashes[1] != other


# Shorter runs


def test_no_steps_is_an_evaluation_only(lockbox: Path, tmp_path: Path) -> None:
    run = train(small_run(lockbox, tmp_path), overrides=["train.steps=0", "learner.warmup_steps=0"], reporter=SILENT)
    assert run.summary["train_steps"] == 0
    assert run.summary["episodes"] == 4
    assert run.summary["heldout_success_before"] == run.summary["heldout_success_after"]
    assert run.adapter.name == "step-000000"
    assert record_of(run.path)["status"] == "finished"


def test_hours_end_a_run_early_but_whole(lockbox: Path, tmp_path: Path) -> None:
    overrides = ["train.steps=1000", "train.max_hours=0.0000001", "eval.every=0"]
    config = small_run(lockbox, tmp_path, eval={"tasks": 2})
    run = train(config, overrides=overrides, reporter=SILENT)
    assert run.summary["train_steps"] < 1000
    assert record_of(run.path)["status"] == "finished"
    assert run.summary["heldout_success_after"] is not None


def test_without_held_out_tasks_nothing_is_evaluated_and_the_last_adapter_is_the_best(
    lockbox: Path, tmp_path: Path
) -> None:
    rows = [{"task_id": f"t{seed}", "seed": seed} for seed in range(6)]
    run = train(small_run(lockbox, tmp_path, eval={}), tasks=rows, reporter=SILENT)
    assert run.summary["heldout_tasks"] == 0
    assert run.summary["heldout_success_before"] is run.summary["heldout_success_after"] is None
    assert run.summary["episodes"] == 16
    assert run.adapter.name == "step-000002"
    with pytest.raises(TaskError, match="nothing to evaluate on: this run held no tasks out"):
        evaluate_checkpoint(run.path, reporter=SILENT)


def test_a_share_of_given_rows_is_held_out(lockbox: Path, tmp_path: Path) -> None:
    rows = [{"task_id": f"t{seed}", "seed": seed} for seed in range(8)]
    config = small_run(lockbox, tmp_path, eval={})
    run = train(config, tasks=rows, heldout=0.25, overrides=["train.steps=1"], reporter=SILENT)
    assert run.summary["heldout_tasks"] == 2
    kept = [json.loads(line)["task_id"] for line in (run.path / "heldout.jsonl").read_text().splitlines()]
    with EpisodeReader(run.path / "episodes.sqlite") as reader:
        seen = {phase: {r.task_id for r in reader.list(limit=99) if r.phase == phase} for phase in ("train", "eval")}
    assert seen["eval"] == set(kept)
    assert not seen["train"] & seen["eval"]


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


# DESIGN's first page


def sample() -> str:
    """Return the code of the README-to-be, as it is printed."""
    return (Path(__file__).parent / "locker_sample.py").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def project(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with locker.toml, lockers.jsonl and the printed sample, where somebody has made the model."""
    folder = tmp_path_factory.mktemp("project")
    config = """
name = "locker"
heldout = 0.02
[model]
path = "models/tiny"
enable_thinking = false
lora = { rank = 4 }
[rollout]
tasks_per_step = 2
group_size = 4
max_turns = 4
max_tokens = 64
max_turn_tokens = 24
[train]
steps = 1
threads = 1
"""
    (folder / "locker.toml").write_text(config)
    shutil.copy(EXAMPLE / "lockers.jsonl", folder)
    (folder / "sample.py").write_text(sample())
    shutil.copytree(small_model(base, "locker"), folder / "models" / "tiny")
    return folder


@pytest.fixture(scope="module")
def printed(project: Path) -> str:
    """What the sample prints when it is run as a script."""
    done = subprocess.run(
        [sys.executable, "sample.py"],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_sample_of_the_first_page_runs_as_printed(project: Path, printed: str) -> None:
    run = only_run(project / "runs")
    summary = json.loads((run / "summary.json").read_text())
    assert printed.splitlines()[-1] == str(summary)
    assert (summary["train_steps"], summary["heldout_tasks"], summary["episodes"]) == (1, 8, 24)
    record = record_of(run)
    assert record["status"] == "finished"
    assert record["tasks"] == {"train": 392, "heldout": 8}


def test_a_run_is_evaluated_from_any_folder(
    project: Path, printed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = only_run(project / "runs")
    with pytest.raises(EnvError, match=r"defined in the script itself: name it, --set env=script.py:Locker"):
        evaluate_checkpoint(run, reporter=SILENT)  # its class was the script's own
    env = f"env={EXAMPLE / 'locker.py'}:Locker"
    found = evaluate_checkpoint(run, overrides=[env], reporter=SILENT)
    assert (found.tasks, found.episodes) == (8, 8)
    said = json.loads((run / "eval-best.json").read_text())
    assert (said["checkpoint"], said["split"], said["eval/success"]) == ("best", "heldout", found.success)


def test_evaluating_base_and_best_again_gives_what_the_run_found(finished: ag.Run) -> None:
    base = evaluate_checkpoint(finished.path, checkpoint="base", reporter=SILENT)
    assert base.success == finished.summary["heldout_success_before"]
    last = evaluate_checkpoint(finished.path, checkpoint="last", reporter=SILENT)
    assert last.success == finished.summary["heldout_success_after"]
    split = evaluate_checkpoint(finished.path, split="train", overrides=["eval.tasks=3"], reporter=SILENT)
    assert split.tasks == 3
    assert (finished.path / "eval-best-train.json").is_file()


def test_a_checkpoint_or_a_run_that_is_not_there_is_answered_with_those_that_are(finished: ag.Run) -> None:
    with pytest.raises(UserError, match=r"no checkpoint 'step-9' .*; there: best, last, step-00000., .*base"):
        evaluate_checkpoint(finished.path, checkpoint="step-9", reporter=SILENT)
    with pytest.raises(UserError, match="Runs in"):
        evaluate_checkpoint(finished.path.parent / "small-1999", reporter=SILENT)


def test_an_environment_is_recorded_by_a_name_that_finds_it_again(tmp_path: Path) -> None:
    module = tmp_path / "my_env.py"
    module.write_text("import agentgrpo as ag\nclass Mine(ag.ToolEnv):\n    pass\n")
    config = load_config({"env": f"{module}:Mine"})
    assert env_reference(config, open_env(config, None)) == f"{module}:Mine"
    sys.path.insert(0, str(tmp_path))
    try:
        mine = __import__("my_env").Mine
        assert env_reference(load_config({}), open_env(load_config({}), mine)) == f"{module}:Mine"
    finally:
        sys.path.remove(str(tmp_path))
        del sys.modules["my_env"]
    for name in ("lockbox", "agentgrpo/Lockbox-v0"):
        config = load_config({"env": name})
        assert env_reference(config, open_env(config, None)) == name
