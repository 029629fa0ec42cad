"""Pages of docs/ as tests see them: their blocks of code and their commands."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import typer

from agentgrpo.cli.main import app

DOCS = Path(__file__).parents[1] / "docs"


class Block(NamedTuple):
    """What stands between two fences; `kind` is all that follows the first."""

    kind: str
    text: str


def blocks(page: str, kind: str | None = None) -> list[Block]:
    """Return the blocks of a page, of one kind or of all."""
    found = re.findall(r"^```([^\n]*)\n(.*?)^```$", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [Block(*each) for each in found if kind is None or each[0] == kind]


def run_python(text: str, names: dict[str, Any]) -> int:
    """Run a block and compare each value with the `# -> text` beside or below it; return how many were compared."""
    told = dict(_told(text))
    compared = 0
    for statement in ast.parse(text).body:
        code = ast.unparse(statement)
        expected = told.get(statement.end_lineno or 0)
        if expected is None:
            exec(compile(ast.Module([statement], []), "docs", "exec"), names)
            continue
        value = eval(compile(ast.Expression(statement.value), "docs", "eval"), names)  # type: ignore[attr-defined]
        assert str(value) == expected, f"{code} gave {value!r}"
        compared += 1
    assert compared == len(told)
    return compared


def _told(text: str) -> Iterator[tuple[int, str]]:
    """Yield (number of the line it belongs to, what it says) of each `# -> ...`."""
    for number, line in enumerate(text.splitlines(), 1):
        code, arrow, expected = line.partition("# -> ")
        if arrow:
            yield number if code.strip() else number - 1, expected.strip()


def commands(page: str) -> list[list[str]]:
    """Return the words of each command that is shown, comments left out."""
    lines = [line[2:] for block in blocks(page, "console") for line in block.text.splitlines() if line.startswith("$ ")]
    return [shlex.split(line, comments=True) for line in lines]


def parse(words: list[str]) -> None:
    """Fail when the command line does not take these words, which begin with `agentgrpo`."""
    command: Any = typer.main.get_command(app)
    rest = words[1:]
    while hasattr(command, "resolve_command"):
        context = command.make_context(command.name, rest, resilient_parsing=True)
        _, command, rest = command.resolve_command(context, rest)
        assert command is not None, f"there is no such command: {words}"
    command.make_context(command.name, list(rest))
