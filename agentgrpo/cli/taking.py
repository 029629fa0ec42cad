"""`agentgrpo run export` and `agentgrpo run import`: episodes out of a run and into one, from arguments to a last line.

What the formats are is decided in `agentgrpo.exchange`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from agentgrpo.cli.transcript import printable
from agentgrpo.exchange.exporting import Exported, Format, export
from agentgrpo.exchange.importing import ImportedRun, import_files
from agentgrpo.store.filter import parse_filter
from agentgrpo.store.run import RunDirectory


def register(app: typer.Typer) -> None:
    """Add the commands to the `run` group."""
    app.command(name="export")(_export)
    app.command(name="import")(_import)


def _export(
    run: Annotated[Path, typer.Argument(help="A run's folder, or a folder of runs (the newest is taken).")],
    where: Annotated[
        str, typer.Argument(metavar="[FILTER]", help="Which episodes, as in the page: 'success:yes step>40 id:7'.")
    ] = "",
    *,
    kind: Annotated[
        Format, typer.Option("--format", help="A page to read, ATIF 1.8, lines for fine-tuning, or an Inspect log.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Where to; by default a file here, named after the run. Nothing is overwritten.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The newest so many of them.")] = None,
) -> None:
    """Take episodes along as one file: to read, to fine-tune on, for other tools."""
    directory = RunDirectory.open(run)
    _say(_exported(export(directory, parse_filter(where), kind, out=out, limit=limit)))


def _import(
    files: Annotated[
        list[Path],
        typer.Argument(help="ATIF documents (.json), lines of ATIF or of OpenAI messages (.jsonl), folders."),
    ],
    *,
    runs: Annotated[Path, typer.Option(help="The folder of runs the new one goes into.")] = Path("runs"),
    name: Annotated[str, typer.Option(help="What the new run is called; the time is added.")] = "imported",
    model: Annotated[
        Path | None, typer.Option(help="The model folder other tools' token ids are of; without it they are left out.")
    ] = None,
) -> None:
    """Bring other people's episodes in as a run: to look at, and to warm-start a model from."""
    _say(_imported(import_files(files, runs, name, model_path=None if model is None else str(model))))


def _exported(done: Exported) -> Iterator[str]:
    yield f"{done.path}: {_count(done.written)}"
    for reason, count in done.left_out.most_common():
        yield f"left out {_count(count)}: {reason}"


def _imported(done: ImportedRun) -> Iterator[str]:
    yield f"run: {done.run.path} ({_count(done.episodes)})"
    if done.unscored:
        yield f"{_count(done.unscored)} came without a reward: it stays unknown"
    if done.renumbered:
        yield f"{_count(done.renumbered)} had the key of another: they came in as further attempts"
    for key, count in done.left_out.most_common():
        yield f"left out '{key}' of {_count(count)}: agentgrpo has no place for it"
    yield f"look     agentgrpo show {done.run.path}"
    yield f"learn    agentgrpo model sft MODEL FOLDER --run {done.run.path}"


def _count(number: int) -> str:
    return f"{number:,} episode{'' if number == 1 else 's'}"


def _say(lines: Iterator[str]) -> None:
    console = Console(highlight=False)
    for line in lines:
        console.print(printable(line), soft_wrap=True, markup=False)
