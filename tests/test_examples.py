"""The examples, run as a user runs them: in a copy of their folder, with a model that is already there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agentgrpo.envcheck import check_env
from agentgrpo.registry import resolve_env
from agentgrpo.tasks import load_tasks
from tests.small import EXAMPLE, ROOT, small_model

QUICK = [
    *("train.steps=1", "train.threads=1", "rollout.tasks_per_step=2", "rollout.group_size=4", "eval.tasks=3"),
    *("eval.every=0", "model.lora.rank=4"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of examples/locker whose warm start was already made."""
    copy = tmp_path_factory.mktemp("examples") / "locker"
    shutil.copytree(EXAMPLE, copy, ignore=shutil.ignore_patterns("models", "runs", "__pycache__"))
    model = small_model(tmp_path_factory.getbasetemp(), "locker")
    # Without the record of its making: a smaller model than the example's config asks for.
    shutil.copytree(model, copy / "models" / "locker-tiny", ignore=shutil.ignore_patterns("warm_start.json"))
    return copy


def start(folder: Path, *words: str) -> dict[str, object]:
    """Run Python in the folder and return the summary of the one run it made."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *words], cwd=folder, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (run,) = (folder / "runs").iterdir()
    summary: dict[str, object] = json.loads((run / "summary.json").read_text())
    assert json.loads((run / "run.json").read_text())["status"] == "finished"
    shutil.rmtree(folder / "runs")
    assert (summary["train_steps"], summary["episodes"]) == (1, 14)
    if words[0] != "-m":
        assert done.stdout.splitlines()[-1] == str(summary)
    return summary


def test_from_a_script(folder: Path) -> None:
    start(folder, "train_script.py", *QUICK)


def test_inside_a_running_loop_as_in_a_notebook(folder: Path) -> None:
    start(folder, "train_notebook.py", *QUICK)


def test_from_the_command_line(folder: Path) -> None:
    sets = [word for key in QUICK for word in ("--set", key)]
    start(folder, "-m", "agentgrpo.cli.main", "train", "locker.toml", *sets)


def test_the_tasks_are_those_the_generator_writes(folder: Path) -> None:
    before = (folder / "lockers.jsonl").read_bytes()
    subprocess.run([sys.executable, "make_tasks.py"], cwd=folder, check=True, timeout=300)
    assert (folder / "lockers.jsonl").read_bytes() == before
    assert len(load_tasks(folder / "lockers.jsonl")) == 400


def test_the_environment_is_sound() -> None:
    source = resolve_env(f"{EXAMPLE / 'locker.py'}:Locker", tasks=str(EXAMPLE / "lockers.jsonl"))
    results = check_env(source, tasks=5)
    assert [r for r in results if r.passed is False] == []
    assert {r.name for r in results if r.passed} >= {"tasks", "gymnasium", "determinism", "oracle", "nothing"}
