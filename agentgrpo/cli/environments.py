"""env check and env list: what a person sees of an environment before training on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from agentgrpo.cli.target import open_target
from agentgrpo.envcheck import CheckResult, check_env
from agentgrpo.envs import SHIPPED
from agentgrpo.errors import UserError
from agentgrpo.registry import resolve_env
from agentgrpo.tooling import one_line


def check(env: str, tasks: Path | None, count: int, seed: int, overrides: Sequence[str] = ()) -> None:
    """Print one line per check; exit code 1 when one failed."""
    target = open_target(env, tasks, overrides)
    train = None if target.heldout is None else target.train
    results = check_env(target.source, tasks=count, seed=seed, train=train, heldout=target.heldout)
    table = Table(box=None, show_header=False, pad_edge=False)
    marks = {True: "[green]ok[/green]", False: "[red]FAILED[/red]", None: "[dim]skipped[/dim]"}
    for result, detail in zip(results, _told_once(results), strict=True):
        table.add_row(marks[result.passed], result.name, Text(detail))
    console = Console(highlight=False)
    console.print(table)
    failed = sum(result.passed is False for result in results)
    verdict = f"{env}: {failed} of {len(results)} checks failed" if failed else f"{env} is sound"
    console.print(verdict, markup=False, soft_wrap=True)
    if failed:
        raise typer.Exit(1)


def _told_once(results: Sequence[CheckResult]) -> Iterator[str]:
    """Yield what each check found; one mistake may fail many of them, and is spelled out under the first."""
    told: dict[str, str] = {}
    for result in results:
        first = next((name for name, detail in told.items() if detail in result.detail), None)
        if result.passed is False and first is None:
            told[result.name] = result.detail
        yield result.detail if result.passed is not False or first is None else f"for the same reason as {first}"


def list_shipped() -> None:
    """Print a line for each shipped environment: what it is, its tasks and tools, or what it needs to be used."""
    console = Console(highlight=False)
    rows = [[Text(name), *_shipped(name)] for name in SHIPPED]
    headings = ("name", "what it is", "train", "held out", "tools")
    widths = [max(len(heading), *map(len, column)) for heading, *column in zip(headings, *rows, strict=True)]
    room = console.width - sum(widths) + widths[1] - 2 * len(widths)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="left" if index < 2 else "right", no_wrap=True)
    for row in rows:
        row[1].truncate(max(room, 20), overflow="ellipsis")
        table.add_row(*row)
    console.print(table)


def _shipped(name: str) -> list[Text]:
    try:
        source = resolve_env(name)
        env = source.make()
        tools = len(env.reset(seed=0)[1].get("tools") or ())
        env.close()
        counts = [len(source.tasks(split)) for split in ("train", "heldout")]
    except UserError as error:  # an extra that is not installed, an argument it cannot do without
        return [Text(one_line(str(error)), "dim"), *(Text("-", "dim") for _ in range(3))]
    about = (source.env_class.__doc__ or "").strip().splitlines()[0]
    return [Text(about), *(Text(str(count) if count else "-") for count in (*counts, tools))]
