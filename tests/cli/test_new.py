"""`env new`: what it writes is sound, passes its own test, and is written over nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agentgrpo.cli.new import Template
from agentgrpo.config.run import load_config
from agentgrpo.tasks import load_tasks
from tests.cli.command import Command
from tests.small import ROOT


@pytest.fixture(params=list(Template))
def project(
    request: pytest.FixtureRequest, agentgrpo: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A project of each template, as the command leaves it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))  # an environment's folder is added to it
    done = agentgrpo("env", "new", "front_desk", "--template", request.param)
    assert (done.code, done.err) == (0, "")
    for line in ("cd front_desk", "agentgrpo env check front_desk.toml", "agentgrpo train front_desk.toml"):
        assert line in done.out
    for file in (tmp_path / "front_desk").iterdir():
        assert f"  {file.name} " in done.out
    return tmp_path / "front_desk"


def inside(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder, as somebody who works there."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    return subprocess.run([sys.executable, *words], cwd=folder, env=env, capture_output=True, text=True, timeout=300)


def test_a_new_project_is_sound_and_passes_its_own_test(project: Path, agentgrpo: Command) -> None:
    done = agentgrpo("env", "check", project / "front_desk.toml")
    assert (done.code, done.out.splitlines()[-1]) == (0, f"{project / 'front_desk.toml'} is sound")
    assert "skipped" not in done.out
    own = inside(project, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio", "-W", "error")
    assert "2 passed" in own.stdout, own.stdout + own.stderr


def test_what_is_written_is_short_clean_and_without_placeholders(project: Path) -> None:
    texts = {path.name: path.read_text() for path in project.iterdir() if path.suffix != ".jsonl"}
    assert not [name for name, text in texts.items() if "$" in text]
    assert "class FrontDesk(ag.ToolEnv):" in texts["front_desk.py"]
    assert len(texts["README.md"].splitlines()) == 10
    ruff = inside(project, "-m", "ruff", "check", "--config", str(ROOT / "pyproject.toml"), "--ignore", "D,RUF012", ".")
    assert ruff.returncode == 0, ruff.stdout
    form = inside(project, "-m", "ruff", "format", "--config", str(ROOT / "pyproject.toml"), "--check", ".")
    assert form.returncode == 0, form.stdout


def test_its_config_and_tasks_are_valid_and_the_tasks_are_what_the_script_writes(project: Path) -> None:
    config = load_config(project / "front_desk.toml")
    assert (config.name, config.env, config.tasks) == (
        "front_desk",
        f"{project / 'front_desk.py'}:FrontDesk",
        str(project / "tasks.jsonl"),
    )
    assert config.warm_start is not None
    before = (project / "tasks.jsonl").read_bytes()
    assert len(load_tasks(project / "tasks.jsonl")) == 400
    assert inside(project, "make_tasks.py").returncode == 0
    assert (project / "tasks.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("json", "there is a Python module 'json' already, which would hide yours: try 'my_json'"),
        ("my-env", "such as 'my_env'"),
        ("2x", "such as 'env_2x'"),
        ("class", "such as 'env_class'"),
        ("Desk", "such as 'desk'"),
        ("nowhere/desk", "there is no folder 'nowhere' to make 'desk' in"),
    ],
)
def test_a_name_that_cannot_be_one_is_told(
    agentgrpo: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = agentgrpo("env", "new", name)
    assert (done.code, told in done.err) == (2, True), done.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("there", ["folder", "file"])
def test_nothing_is_written_over(agentgrpo: Command, tmp_path: Path, there: str) -> None:
    place = tmp_path / "desk"
    place.mkdir() if there == "folder" else place.write_text("mine")
    done = agentgrpo("env", "new", place)
    assert (done.code, "nothing is written over" in done.err) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["desk"]
    assert not list(place.iterdir()) if there == "folder" else place.read_text() == "mine"


def test_a_beginning_that_fails_leaves_nothing(
    agentgrpo: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("runpy.run_path", fail)
    with pytest.raises(OSError, match="no space left"):
        agentgrpo("env", "new", tmp_path / "desk")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_new_project_learns(project: Path) -> None:
    """Half a minute's worth of training already shows; the whole takes some minutes."""
    words = ["-m", "agentgrpo.cli.main", "train", "front_desk.toml", "--set", "train.steps=15", "--set", "eval.every=0"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *words], cwd=project, env=env, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr
    (summary,) = (project / "runs").glob("*/summary.json")
    found = json.loads(summary.read_text())
    assert found["heldout_success_after"] > found["heldout_success_before"] + 0.2
