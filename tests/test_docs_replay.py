"""docs/replay.md: its commands exist, its code runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import Command
from tests.documents import blocks, commands, parse, run_python
from tests.replay.runs import oracle_run

PAGE = "replay.md"


def test_its_commands_are_taken() -> None:
    found = commands(PAGE)
    assert len(found) >= 8
    for words in found:
        parse(words)


def test_its_code_runs_on_a_run_of_the_shop(
    agentgrpo: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    oracle_run(tmp_path / "runs", "shop", tasks=3, samples=2)
    (reward, python) = blocks(PAGE, "python")
    name, _, code = reward.text.partition("\n")
    assert name == "# brief.py"
    Path("brief.py").write_text(code)
    names: dict[str, Any] = {"__name__": "docs"}
    run_python(python.text, names)
    assert names["found"].same == names["found"].total == 6
    assert [row.parent for row in names["rows"]] == [1]
    assert len(names["scored"].pairs) == 7
    (words,) = [words for words in commands(PAGE) if words[1:3] == ["run", "rescore"]]
    done = agentgrpo(*words[1:])
    assert (done.code, done.out.splitlines()[0]) == (0, "brief.py:brief: 7 episodes scored, kept as number 2")
