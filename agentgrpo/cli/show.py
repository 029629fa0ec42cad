"""`agentgrpo show`: a run's episodes as a table, or one of them in full, in the terminal.

It reads the run's files only, also while the run is writing them, and starts without torch.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from agentgrpo.cli.group_view import group_view
from agentgrpo.cli.token_view import Colour, Vocabulary, token_view
from agentgrpo.cli.transcript import BAD, GOOD, QUIET, WARN, conversation, head, mark, number, printable, stop_text
from agentgrpo.errors import UserError, nearest
from agentgrpo.store.filter import parse_filter
from agentgrpo.store.query import as_filter
from agentgrpo.store.reader import EpisodeReader
from agentgrpo.store.rows import EpisodeFilter, EpisodeRow
from agentgrpo.store.run import RunDirectory
from agentgrpo.store.scores import scores_of
from agentgrpo.types import StopReason

_COLUMNS: dict[str, JustifyMethod] = {
    "#": "right",
    "phase": "left",
    "step": "right",
    "task": "left",
    "sample": "right",
    "reward": "right",
    "success": "center",
    "turns": "right",
    "calls": "right",
    "errors": "right",
    "stop": "left",
    "seconds": "right",
}
_SPARE = ("seconds", "calls", "errors", "turns", "sample", "stop")  # the first of these go where room is short
_TASK_ROOM = 16  # signs of a task's name that tell it from others
_SORTS = {  # what --sort takes, and what the store calls it
    "id": "id",
    "phase": "phase",
    "step": "step",
    "task": "task_id",
    "reward": "reward",
    "success": "success",
    "advantage": "advantage",
    "turns": "turns",
    "calls": "tool_calls",
    "errors": "tool_errors",
    "stop": "stop_reason",
    "seconds": "seconds",
    "tokens": "tokens",
    "sampled": "sampled_tokens",
    "forks": "forks",
}
_PHASE_STYLES = {"train": "", "eval": "magenta", "fork": "cyan"}
_ROOMY = 120  # columns from which on the table may spread
_ENDLESS = 10_000  # the width of a file


class PhaseName(StrEnum):
    """What episodes are for."""

    TRAIN = "train"
    EVAL = "eval"
    FORK = "fork"


def show(
    run: Annotated[Path, typer.Argument(help="A run's folder, or a folder of runs (the newest is taken).")],
    episode: Annotated[
        str | None, typer.Argument(help="A number of the list, or a key: phase/step/task/sample.")
    ] = None,
    *,
    phase: Annotated[PhaseName | None, typer.Option(help="Only episodes of this phase.")] = None,
    step: Annotated[int | None, typer.Option(help="Only episodes of this train step.")] = None,
    task: Annotated[str | None, typer.Option(help="Only episodes of this task; * stands for anything.")] = None,
    stop: Annotated[StopReason | None, typer.Option(help="Only episodes that ended for this reason.")] = None,
    min_reward: Annotated[float | None, typer.Option(help="Only rewards of at least this.")] = None,
    max_reward: Annotated[float | None, typer.Option(help="Only rewards of at most this.")] = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="Only episodes that broke (not: unsuccessful ones).")
    ] = False,
    filter_: Annotated[
        str, typer.Option("--filter", help="As in the page: env:shop 'reward<0.2' -stop:done tool:refund '\"late\"'.")
    ] = "",
    contains: Annotated[str | None, typer.Option(help="Only episodes whose text holds these words.")] = None,
    sort: Annotated[str, typer.Option(help="Column to sort by.")] = "id",
    descending: Annotated[bool, typer.Option("--desc/--asc", help="High to low, or low to high.")] = True,
    limit: Annotated[int, typer.Option(min=1, help="Most rows to list.")] = 30,
    group: Annotated[bool, typer.Option("--group", help="Show the whole group of one episode, side by side.")] = False,
    tokens: Annotated[
        Colour | None, typer.Option(help="Show one episode's tokens as trained, coloured by this.")
    ] = None,
) -> None:
    """List the episodes of a run, or show one of them in full."""
    directory, console = RunDirectory.open(run), Console(highlight=False)
    with EpisodeReader(directory.episodes) as reader:
        if episode is not None:
            _show_one(console, directory, reader, episode, tokens, in_group=group)
            return
        if tokens is not None or group:
            raise _needs_episode("--group" if group else "--tokens mask")
        options = EpisodeFilter(
            phase=None if phase is None else phase.value,
            step=step,
            task_id=task,
            stop_reason=stop,
            failed=True if failed else None,
            min_reward=min_reward,
            max_reward=max_reward,
            contains=contains,
        )
        where, order = as_filter(options) & parse_filter(filter_), _order(sort)
        rows = reader.list(where, order=order, descending=descending, limit=limit)
        _print_list(console, _title(directory, reader), rows, sort)
        console.print(_footer(run, rows, reader.count(where), reader.count()), soft_wrap=True)


def _needs_episode(option: str) -> UserError:
    name = option.partition(" ")[0]
    return UserError(f"{name} needs an episode: agentgrpo show RUN EPISODE {option} (RUN alone lists them)")


def _show_one(
    console: Console,
    run: RunDirectory,
    reader: EpisodeReader,
    episode: str,
    colour: Colour | None,
    *,
    in_group: bool,
) -> None:
    if in_group:
        _show_group(console, reader, episode)
    else:
        _show_episode(console, run, reader, episode, colour)


def _show_episode(
    console: Console, run: RunDirectory, reader: EpisodeReader, episode: str, colour: Colour | None
) -> None:
    stored = reader.get(episode)
    forks = reader.list(EpisodeFilter(parent=stored.row.id), descending=False, limit=100)
    scores = scores_of(run.episodes, stored.row.id)
    console.print(head(stored, _mates(reader, stored.row), forks=forks, scores=scores))
    if colour is None:
        parts = conversation(stored.trajectory)
    else:
        parts = token_view(stored, Vocabulary.of(run.read_record().get("model_path")), colour)
    for part in parts:
        console.print(part)


def _show_group(console: Console, reader: EpisodeReader, episode: str) -> None:
    rows = reader.group(reader.find(episode).key)
    for part in group_view([(row, reader.get(row.id).trajectory) for row in rows], console.width):
        console.print(part)


def _mates(reader: EpisodeReader, row: EpisodeRow) -> Sequence[EpisodeRow]:
    """Return the episodes from the same start state, itself included."""
    if row.parent is None:
        return reader.group(row.key)
    forks = reader.list(EpisodeFilter(parent=row.parent), descending=False, limit=1000)
    return [fork for fork in forks if fork.parent_turns == row.parent_turns]


def _order(sort: str) -> str:
    if sort not in _SORTS:
        raise UserError(f"--sort {sort}: no such column.{nearest(sort, _SORTS)} Columns: {', '.join(_SORTS)}.")
    return _SORTS[sort]


def _title(run: RunDirectory, reader: EpisodeReader) -> Text:
    steps = reader.steps()
    trained = max((s.step for s in steps if s.phase == "train"), default=0)
    parts = [f"{sum(s.episodes for s in steps):,} episodes", f"{trained:,} train steps"]
    status = run.read_record().get("status")
    evaluations = [s for s in steps if s.phase == "eval" and s.scored]
    if evaluations:
        last = evaluations[-1]
        parts.append(f"held-out success {last.successes / last.scored:.1%} at step {last.step}")
    if status:
        parts.insert(0, printable(str(status)))
    return Text.assemble((printable(run.name), "bold"), "   ", (" · ".join(parts), QUIET))


def _print_list(console: Console, title: Text, rows: Sequence[EpisodeRow], sort: str) -> None:
    console.print(title, soft_wrap=True)
    if not rows:
        return
    is_file = not console.is_terminal and "COLUMNS" not in os.environ  # it has no edge: nothing is cut
    wide = Console(highlight=False, width=_ENDLESS) if is_file else console
    wide.print(Text(), _table(rows, wide.width, sort))


def _table(rows: Sequence[EpisodeRow], width: int, sort: str) -> Table:
    gap = 2 if _ROOMY <= width < _ENDLESS else 1
    lines = [dict(zip(_COLUMNS, _cells(row), strict=True)) for row in rows]
    widths = {name: max(len(name), *(len(line[name]) for line in lines)) for name in _COLUMNS}
    shown = _shown(widths, width, gap, sort)
    room = width - sum(widths[name] + gap for name in shown if name != "task")
    table = Table(box=None, header_style=QUIET, padding=(0, gap, 0, 0), pad_edge=False)
    for name in shown:
        table.add_column(name, justify=_COLUMNS[name], no_wrap=True)
    for line in lines:
        line["task"] = Text(_middle(line["task"].plain, room))
        table.add_row(*(line[name] for name in shown))
    return table


def _shown(widths: dict[str, int], width: int, gap: int, sort: str) -> list[str]:
    """Return the columns: all of them, or as many as leave the task's name long enough to be told from others."""
    shown = list(_COLUMNS)
    for spare in _SPARE:
        needed = widths | {"task": min(widths["task"], _TASK_ROOM)}
        if sum(needed[name] + gap for name in shown) - gap <= width:
            break
        shown = [name for name in shown if name != spare or name == sort]
    return shown


def _middle(text: str, room: int) -> str:
    """Shorten a text in the middle: the ends of task ids tell them apart."""
    if len(text) <= max(room, 8):
        return text
    tail = max(room, 8) // 2
    return f"{text[: max(room, 8) - tail - 1]}\u2026{text[-tail:]}"


def _cells(row: EpisodeRow) -> list[Text]:
    reward_style = QUIET if row.success is None else GOOD if row.success else BAD if not row.reward else ""
    return [
        Text(str(row.id), "bold"),
        Text(row.phase, _PHASE_STYLES[row.phase]),
        Text(str(row.step)),
        Text(printable(row.task_id)),
        Text(f"{row.sample}.{row.attempt}" if row.attempt else str(row.sample)),
        Text(number(row.reward), reward_style),
        mark(row.success),
        Text(str(row.turns)),
        Text(str(row.tool_calls)),
        Text(str(row.tool_errors), WARN if row.tool_errors else QUIET),
        stop_text(row.stop_reason, row.boundary),
        Text(f"{row.seconds:.1f}"),
    ]


def _footer(run: Path, rows: Sequence[EpisodeRow], matching: int, total: int) -> Text:
    if not total:
        return Text("\nNo episode has finished yet.", QUIET)
    if not rows:
        return Text(f"\nNone of the {total:,} episodes match. Leave out an option.", WARN)
    shown = f"{len(rows):,} of {matching:,} episodes" + (f" that match, {total:,} in all" if matching < total else "")
    example = f"agentgrpo show {shlex.quote(str(run))} {rows[0].id}"
    return Text.assemble("\n", (f"{shown}.  One in full: ", QUIET), example, (" (add --tokens mask)", QUIET))
