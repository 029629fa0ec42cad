"""Draws the episodes of a group side by side for a terminal: a column for each, a row for each turn.

It only draws what it is given; as many columns as fit stand beside each other, the others below.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from agentgrpo.cli.transcript import (
    BAD,
    QUIET,
    WARN,
    advantage_style,
    answer_text,
    call_text,
    mark,
    number,
    printable,
    stop_text,
)
from agentgrpo.store.rows import EpisodeRow
from agentgrpo.types import Trajectory, Turn
from agentgrpo.viewer.alignment import Alignment, align

_NARROWEST = 24  # characters of a column
_LABEL = 9
_LONGEST = 160  # characters of one text in a cell
_WAYS = ("", "yellow", "magenta", "cyan", "blue", "red")  # a style for each way the episodes went

Column = tuple[EpisodeRow, Trajectory]


def group_view(columns: Sequence[Column], width: int) -> Iterator[RenderableType]:
    """Yield a line about a group, then its episodes beside each other.

    Args:
        columns: The group's episodes.
        width: Of the terminal, in characters.
    """
    found = align([[turn.action for turn in trajectory.turns] for _, trajectory in columns])
    yield _title(columns, found)
    tables = -(-len(columns) // max(1, (width - _LABEL) // _NARROWEST))
    size = -(-len(columns) // tables)
    for start in range(0, len(columns), size):
        yield Text()
        yield _table(columns, range(start, min(start + size, len(columns))), found)


def _title(columns: Sequence[Column], found: Alignment) -> RenderableType:
    row = columns[0][0]
    rewards = [mate.reward for mate, _ in columns if mate.reward is not None]
    mean = f"mean reward {sum(rewards) / len(rewards):.2f}" if rewards else "none scored"
    parts = [f"{len(columns)} episodes", mean]
    parts.append("all did the same" if found.divergence is None else f"they part at turn {found.divergence + 1}")
    line = Text.assemble(
        (printable(f"{row.phase}/{row.step}/{row.task_id}"), "bold"), "   ", (" · ".join(parts), QUIET)
    )
    if row.phase == "train" and len(rewards) > 1 and len(set(rewards)) == 1:
        return Group(line, Text("all rewards are equal: the group has no variance and teaches nothing", WARN))
    return line


def _table(columns: Sequence[Column], which: range, found: Alignment) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False, expand=True)
    table.add_column(width=_LABEL, no_wrap=True)
    for _ in which:
        table.add_column(ratio=1, overflow="fold")
    table.add_row("", *(_head(columns[index][0]) for index in which))
    turns = max((len(trajectory.turns) for _, trajectory in columns), default=0)
    for turn in range(turns):
        is_first = turn == found.divergence
        label = Text(f"turn {turn + 1}{' ≠' if is_first else ''}", f"bold {WARN}" if is_first else QUIET)
        cells = (_cell(columns[index][1], turn, found.branches[index]) for index in which)
        table.add_section()
        table.add_row(label, *cells)
        table.add_row()
    table.add_row(Text("end", QUIET), *(_end(columns[index][0]) for index in which))
    return table


def _head(row: EpisodeRow) -> Text:
    sample = f"{row.sample}.{row.attempt}" if row.attempt else str(row.sample)
    line = Text.assemble((f"sample {sample}", "bold"), " ", mark(row.success), f" {number(row.reward)}\n")
    if row.filter_reason:
        return line.append(f"did not train: {row.filter_reason}\n", QUIET)
    if row.advantage is not None:
        return line.append(f"{number(row.advantage, sign=True)}\n", f"bold {advantage_style(row.advantage)}")
    return line


def _cell(trajectory: Trajectory, index: int, branches: Sequence[int]) -> Text:
    if index >= len(trajectory.turns):
        return Text("")
    turn = trajectory.turns[index]
    style = _WAYS[min(branches[index], len(_WAYS) - 1)]
    bar = Text("▌", style) if style else Text("")
    return Text.assemble(bar, Text("\n").join(_lines(turn)))


def _lines(turn: Turn) -> Iterator[Text]:
    content = turn.action.get("content")
    if content:
        yield _cut(Text(printable(str(content)).strip()))
    pending = list(turn.messages)
    for call in turn.action["tool_calls"]:
        yield _cut(call_text(call))
        result = next((m for m in pending if m.get("tool_call_id") == call["id"]), None)
        if result is not None:
            pending.remove(result)
            yield _cut(Text(answer_text(result), BAD if result.get("is_error") else QUIET))
    yield from (_cut(Text(answer_text(message), QUIET)) for message in pending)


def _cut(text: Text) -> Text:
    text.truncate(_LONGEST, overflow="ellipsis")
    return text


def _end(row: EpisodeRow) -> Text:
    return Text.assemble(stop_text(row.stop_reason, row.boundary), (f"\n{row.turns} turns, {row.seconds:.1f} s", QUIET))
