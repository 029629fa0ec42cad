"""docs/environments.md: every block and every command is run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agentgrpo.cli.new import Template, new
from agentgrpo.envcheck import BINDING, CHECKS
from tests.cli.command import Command
from tests.documents import DOCS, blocks, commands, parse, run_python
from tests.small import ROOT

PAGE = "environments.md"
TEXT = (DOCS / PAGE).read_text(encoding="utf-8")
TRAINED = ("train", "show", "--run")  # what begins with a trained model


def test_the_code_runs_and_gives_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "docs"}
    texts = [block.text for block in blocks(PAGE, "python") if not block.text.startswith("# desk.py")]
    assert sum(run_python(text, names) for text in texts) == 7


def test_the_environment_shown_is_the_one_that_is_written(tmp_path: Path) -> None:
    new(tmp_path / "desk", Template.PLAIN)
    (shown,) = [block.text for block in blocks(PAGE, "python") if block.text.startswith("# desk.py")]
    assert shown.removeprefix("# desk.py\n") in (tmp_path / "desk" / "desk.py").read_text()


def test_the_commands_exist_and_those_before_training_run(
    agentgrpo: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    ran = 0
    for words in commands(PAGE):
        if words[0] == "cd":
            monkeypatch.chdir(words[1])
        elif not any(word in TRAINED for word in words):
            done = agentgrpo(*words[1:])
            assert done.code == 0, (words, done.err)
            ran += 1
        else:
            parse(words)
    assert ran == 4


@pytest.mark.slow
def test_the_page_leads_from_nothing_to_a_trained_agent(tmp_path: Path) -> None:
    folder = tmp_path
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    for words in commands(PAGE):
        if words[0] == "cd":
            folder = folder / words[1]
            continue
        line = [sys.executable, "-m", "agentgrpo.cli.main", *words[1:]]
        done = subprocess.run(line, cwd=folder, env=env, capture_output=True, text=True, input="", timeout=1700)
        assert done.returncode == 0, (words, done.stderr)
    (summary,) = folder.glob("runs/*/summary.json")
    found = json.loads(summary.read_text())
    assert found["heldout_success_before"] < 0.7
    assert found["heldout_success_after"] > 0.9


def test_every_check_is_explained() -> None:
    table = TEXT.split("| check |")[1].split("\n\n")[0]
    named = {name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert named == set(CHECKS)
    always = re.search(r"'oracle': .*?`\n?(.*?) always apply", TEXT.replace('"', "'"), re.DOTALL)
    assert always is not None
    assert set(re.findall(r"`(\w+)`", always[1])) == set(BINDING)


def test_what_is_linked_and_pictured_is_there() -> None:
    for page in [PAGE, *(f"migrate/{path.name}" for path in (DOCS / "migrate").iterdir())]:
        text = (DOCS / page).read_text(encoding="utf-8")
        for path in re.findall(r"\]\(([^)#]+)", text):
            assert ((DOCS / page).parent / path).is_file(), (page, path)
