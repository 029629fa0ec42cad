"""Whole runs on models made here: what they leave behind, that they repeat; the sample of the first page."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

import agentgrpo as ag
from agentgrpo.config.run import load_config
from agentgrpo.envs.lockbox.env import Lockbox
from agentgrpo.errors import EnvError, TaskError, UserError
from agentgrpo.evaluate.run import evaluate_checkpoint
from agentgrpo.run.report import SilentReporter
from agentgrpo.run.workbench import env_reference, open_env
from agentgrpo.store import EpisodeReader
from agentgrpo.store.run import read_metrics
from agentgrpo.training import train
from tests.small import EXAMPLE, ROOT, only_run, record_of, small_model, small_run

SILENT = SilentReporter()


class EasyAtFirst(Lockbox):
    """Two tasks are always solved, the others never."""

    def reward(self) -> dict[str, float]:
        return {"outcome": float(self.task["seed"] < 2)}


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


def test_the_best_adapter_is_that_of_the_tasks_every_evaluation_played(lockbox: Path, tmp_path: Path) -> None:
    """The last look plays more tasks than those before it, here harder ones: that says nothing of the adapter."""
    config = small_run(lockbox, tmp_path, eval={"every": 1, "during_tasks": 2})
    run = train(config, env=EasyAtFirst, heldout=[{"seed": seed} for seed in range(5)], reporter=SILENT)
    looks = [line["eval/success"] for line in read_metrics(run.path / "metrics.jsonl")]
    assert looks == [0.4, 1.0, 0.4]
    assert run.adapter.name == "step-000002"  # on the first two tasks it is as good as the one before


def test_no_evaluation_plays_more_tasks_than_asked_for(lockbox: Path, tmp_path: Path) -> None:
    config = small_run(lockbox, tmp_path, eval={"tasks": 2, "every": 1, "during_tasks": 4})
    run = train(config, reporter=SILENT)
    looks = [line["eval/tasks"] for line in read_metrics(run.path / "metrics.jsonl") if "eval/tasks" in line]
    assert looks == [2, 2, 2]


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
