"""env check and env list: what a person sees of an environment before training on it."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from agentgrpo.envcheck import check_env
from agentgrpo.envs import SHIPPED
from agentgrpo.registry import EnvSource, resolve_env


def check(env: str, tasks: Path | None, count: int, seed: int) -> None:
    """Print one line per check; exit code 1 when one failed."""
    results = check_env(_source(env, tasks), tasks=count, seed=seed)
    table = Table(box=None, show_header=False, pad_edge=False)
    marks = {True: "[green]ok[/green]", False: "[red]FAILED[/red]", None: "[dim]skipped[/dim]"}
    for result in results:
        table.add_row(marks[result.passed], result.name, Text(result.detail))
    console = Console(highlight=False)
    console.print(table)
    failed = sum(result.passed is False for result in results)
    verdict = f"{env}: {failed} of {len(results)} checks failed" if failed else f"{env} is sound"
    console.print(verdict, markup=False, soft_wrap=True)
    if failed:
        raise typer.Exit(1)


def _source(env: str, tasks: Path | None) -> EnvSource:
    return resolve_env(env) if tasks is None else resolve_env(env, tasks=str(tasks))


def list_shipped() -> None:
    """Print the shipped environments with their splits and tools."""
    table = Table(box=None, pad_edge=False)
    for heading in ("name", "what it is", "train", "held out", "tools"):
        table.add_column(heading)
    for name in SHIPPED:
        source = resolve_env(name)
        about = (source.env_class.__doc__ or "").strip().splitlines()[0]
        tools = source.make().reset(seed=0)[1].get("tools", [])
        table.add_row(name, about, str(len(source.tasks("train"))), str(len(source.tasks("heldout"))), str(len(tools)))
    Console(highlight=False).print(table)
