"""What README shows is what runs."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import typer

from agentgrpo.cli.main import app
from agentgrpo.config.run import load_config

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def code_lines(text: str) -> list[str]:
    """Return the lines that are code: no comments, no blanks."""
    stripped = (re.sub(r"\s+#.*$", "", line).rstrip() for line in text.splitlines() if not line.startswith("#"))
    return [line for line in stripped if line]


def test_the_environment_shown_is_the_one_the_tests_train() -> None:
    sample = (ROOT / "tests" / "locker_sample.py").read_text(encoding="utf-8")
    assert code_lines(blocks("python")[0]) == code_lines(sample)


def test_the_config_shown_is_valid() -> None:
    config = load_config(tomllib.loads(blocks("toml")[0]))
    assert config.rollout.group_size == 8


def test_every_command_shown_exists() -> None:
    group = typer.main.get_command(app)
    names = set(getattr(group, "commands", {}))
    shown = {
        match
        for block in blocks("console")
        for match in re.findall(r"^\$ agentgrpo (?:(?=\w))(\w+)", block, flags=re.MULTILINE)
    }
    assert shown
    assert shown <= names


def test_the_pictures_shown_are_there() -> None:
    for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README):
        assert (ROOT / path).is_file(), path
