"""docs/apps.md: its blocks are run, and what it names is there."""

from __future__ import annotations

import re
import tomllib

from agentgrpo.envs.countdown.env import Countdown
from agentgrpo.envs.files.env import Files
from agentgrpo.envs.workspace.env import Workspace
from agentgrpo.registry import resolve_env
from tests.documents import DOCS, blocks, run_python
from tests.small import ROOT

COLUMNS: tuple[type[Workspace | Files | Countdown], ...] = (Workspace, Files, Countdown)
PAGE = (DOCS / "apps.md").read_text(encoding="utf-8")


def test_its_code_runs() -> None:
    (block,) = blocks("apps.md", "python")
    assert run_python(block.text, {}) == 3


def test_its_configuration_names_an_environment() -> None:
    (block,) = blocks("apps.md", "toml")
    found = tomllib.loads(block.text)
    assert resolve_env(found["env"], **found["env_args"]).id == "agentgrpo/Workspace-v0"


def test_its_numbers_of_rows_and_templates_are_those_shipped() -> None:
    for split, first in (
        ("train", "training rows"),
        ("heldout", "`heldout` "),
        ("heldout_templates", "`heldout_templates`"),
    ):
        (line,) = re.findall(rf"^\| {re.escape(first)}.*", PAGE, re.MULTILINE)
        cells = [cell.strip().replace(",", "") for cell in line.strip("|").split("|")[1:]]
        for cell, source in zip(cells, COLUMNS, strict=True):
            rows = source.tasks(split)
            assert int(cell.split()[0]) == len(rows), (split, source)
            if " of " in cell:
                assert int(cell.split()[2]) == len({row["template"] for row in rows}), (split, source)


def test_the_tests_and_files_it_names_are_there() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert len(named) >= 10
    assert {name for name in named if f"def {name}(" not in sources} == set()
    for target in re.findall(r"\]\(([^)#:]+)\)", PAGE):
        assert (DOCS / target).resolve().exists(), target
