"""Draws one episode for a terminal: its head, its conversation with calls and results paired, its end.

It only draws what it is given; nothing a model or a tool wrote can move the cursor or change a colour.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from agentgrpo.store.changes import Change, Ledger, Unknown
from agentgrpo.store.rows import EpisodeRow, StoredEpisode
from agentgrpo.store.scores import Rescore, Score
from agentgrpo.types import Json, JsonObject, Message, StopReason, Trajectory, Turn

GOOD, BAD, WARN, CALL, QUIET = "green", "red", "yellow", "cyan", "dim"

_GUTTER = 9
_DOTS = "  ·  "


def printable(text: str) -> str:
    """Return text with control and direction-changing characters spelled out; newlines and tabs stay."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def number(value: float | None, *, sign: bool = False) -> str:
    """Return a number with two digits, or a dash when it is unknown."""
    if value is None:
        return "-"
    return f"{value:+.2f}" if sign else f"{value:.2f}"


def dotted(parts: Iterable[Text]) -> Text:
    """Return texts in one line, dots between them."""
    line = Text()
    for part in parts:
        line.append(_DOTS if line else "", QUIET).append_text(part)
    return line


def mark(success: bool | None) -> Text:
    """Return a tick, a cross, or a dash when nobody knows."""
    return {True: Text("✓", GOOD), False: Text("✗", BAD), None: Text("-", QUIET)}[success]


def stop_text(stop: StopReason, boundary: str | None) -> Text:
    """Return why an episode ended, coloured by how bad that is."""
    style = BAD if stop is StopReason.FAILED else WARN if stop.is_truncated or stop is StopReason.CANCELLED else ""
    return Text(f"{stop}:{boundary}" if boundary else str(stop), style)


def head(
    stored: StoredEpisode,
    mates: Sequence[EpisodeRow],
    *,
    forks: Sequence[EpisodeRow] = (),
    scores: Sequence[tuple[Rescore, Score]] = (),
) -> RenderableType:
    """Return what is known about an episode as a whole: also what was forked from it and how it was scored later."""
    row, trajectory = stored.row, stored.trajectory
    lines: list[tuple[str, Text]] = [
        ("result", _result(row)),
        ("reward", _terms(trajectory)),
        ("group", _group(row, mates)),
        ("size", _size(row, trajectory)),
        ("origin", _origin(trajectory)),
    ]
    lines += [("fork", _fork_of(row))] if row.parent is not None else []
    lines += [("forks", _forks(forks))] if forks else []
    lines += [("rescored", _rescored(rescore, score)) for rescore, score in scores]
    if "judge" in trajectory.info:
        lines.insert(2, ("judge", Text(printable(str(trajectory.info["judge"]["reason"])) or "gave no reason")))
    if row.filter_reason:
        lines.insert(2, ("filtered", Text(f"did not train: {row.filter_reason}", WARN)))
    title = Text.assemble((printable(str(row.key)), "bold"), (f"   #{row.id}", QUIET))
    return Group(title, Text(), grid(lines), Text())


def conversation(trajectory: Trajectory) -> Iterator[RenderableType]:
    """Yield the messages before the first turn, then every turn, then the end."""
    yield grid((str(m.get("role", "?")), content_text(m)) for m in trajectory.prompt)
    state = State()
    for index, turn in enumerate(trajectory.turns):
        yield Text()
        yield rule(_turn_title(index, turn, trajectory))
        yield grid(_turn_lines(turn, state))
    yield Text()
    yield rule(_end(trajectory))


class State:
    """Draws patches, with what they replace where that is known."""

    def __init__(self) -> None:
        self._ledger = Ledger()

    def lines(self, patch: Iterable[JsonObject]) -> Iterator[Text]:
        """Yield a readable line per change."""
        yield from map(change_line, self._ledger.read(patch))


def change_line(change: Change) -> Text:
    """Return a change in one line: where, what was there, what is there now."""
    line = Text(printable(change.pointer), "bold")
    before = [] if isinstance(change.old, Unknown) else [(f"{_plain(change.old)} ", BAD), ("-> ", QUIET)]
    if change.kind == "add":
        return line.append(": ").append(f"added {_plain(change.new)}", GOOD)
    if change.kind == "replace":
        return Text.assemble(line, ": ", *before, (_plain(change.new), GOOD))
    if change.kind == "remove":
        return Text.assemble(line, ": ", *before, ("removed", BAD))
    return line.append(f": {printable(change.kind)} {printable(change.origin or '')}", WARN)


def _result(row: EpisodeRow) -> Text:
    verdict = {True: ("success", GOOD), False: ("no success", BAD), None: ("not scored", QUIET)}[row.success]
    parts = [Text(*verdict), Text(f"reward {number(row.reward)}")]
    if row.advantage is not None:
        parts.append(Text(f"advantage {number(row.advantage, sign=True)}", advantage_style(row.advantage)))
    parts.append(stop_text(row.stop_reason, row.boundary))
    if row.cause:
        parts.append(Text(printable(row.cause), BAD))
    return dotted(parts)


def advantage_style(advantage: float) -> str:
    """Return the colour of an advantage as text."""
    return "blue" if advantage > 0 else "dark_orange" if advantage < 0 else QUIET


def _terms(trajectory: Trajectory) -> Text:
    terms = [Text(f"{printable(name)} {value:g}") for name, value in trajectory.reward_terms.items()]
    return dotted(terms) if terms else Text("no terms", QUIET)


def _group(row: EpisodeRow, mates: Sequence[EpisodeRow]) -> Text:
    rewards = [mate.reward for mate in mates if mate.reward is not None]
    mean = f"mean {sum(rewards) / len(rewards):.2f} of {len(rewards)}:" if rewards else "none scored:"
    line = Text(mean)
    for mate in mates:
        style = QUIET if mate.success is None else GOOD if mate.success else BAD
        line.append(" ").append(f" {number(mate.reward)} ", f"{style} reverse" if mate.id == row.id else style)
    return line


def _fork_of(row: EpisodeRow) -> Text:
    return Text(f"of episode #{row.parent}, its own from turn {(row.parent_turns or 0) + 1} on")


def _forks(forks: Sequence[EpisodeRow]) -> Text:
    turns: dict[int, list[str]] = {}
    for fork in forks:
        turns.setdefault((fork.parent_turns or 0) + 1, []).append(f"#{fork.id}")
    return dotted(Text(f"from turn {turn}: {' '.join(ids)}") for turn, ids in sorted(turns.items()))


def _rescored(rescore: Rescore, score: Score) -> Text:
    named = Text(f"{rescore.id}  {printable(rescore.reward)}: ")
    if score.reward is None:
        return named.append(printable(score.problem or "no score"), WARN)
    terms = ", ".join(f"{printable(name)} {value:g}" for name, value in score.terms.items())
    return named.append(f"{score.reward:.2f}").append(f" ({terms})" if terms else "", QUIET)


def _size(row: EpisodeRow, trajectory: Trajectory) -> Text:
    errors = (f"{row.tool_errors} failed", BAD) if row.tool_errors else ("none failed", "")
    parts = [
        Text(f"{row.turns} turns"),
        Text.assemble(f"{row.tool_calls} calls, ", errors),
        Text(_text_tokens(trajectory) or f"{row.sampled_tokens:,} tokens sampled of {row.tokens:,}"),
        Text(f"{row.seconds:.1f} s"),
    ]
    if row.forks:
        parts.append(Text(f"{row.forks} forks", WARN))
    return dotted(parts)


def _text_tokens(trajectory: Trajectory) -> str | None:
    """Return what is known of the tokens of a chat model's episode."""
    if not trajectory.is_text:
        return None
    count = trajectory.info["endpoint"].get("completion_tokens")
    return "text only" if count is None else f"text only, {count:,} tokens by the endpoint's count"


def _origin(trajectory: Trajectory) -> Text:
    started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(trajectory.started_at))
    parts = [printable(trajectory.env_id), str(trajectory.policy), f"seed {trajectory.seed}", started]
    return Text(_DOTS.join(parts), QUIET)


def _turn_title(index: int, turn: Turn, trajectory: Trajectory) -> Text:
    sampled = sum(len(s.token_ids) for s in trajectory.spans if s.sampled and s.turn == index)
    parts = [] if trajectory.is_text else [f"{sampled} tokens"]
    parts += [f"model {turn.generate_seconds:.2f} s", f"env {turn.env_seconds:.2f} s"]
    if turn.finish_reason != "stop":
        parts.insert(0, f"ended by {turn.finish_reason}")
    if turn.state_hash:
        parts.append(f"state {printable(turn.state_hash)[:8]}")
    if trajectory.parent is not None and index == trajectory.parent.turns:
        parts.insert(0, "its own from here on")
    return Text.assemble((f"turn {index + 1}", "bold"), ("   " + _DOTS.join(parts), QUIET))


def _turn_lines(turn: Turn, state: State) -> Iterator[tuple[str, Text]]:
    if turn.action.get("reasoning"):
        yield "thinks", Text(printable(str(turn.action["reasoning"]).strip()), f"italic {QUIET}")
    if turn.action.get("content"):
        yield "assistant", content_text(turn.action)
    pending = list(turn.messages)
    for call in turn.action["tool_calls"]:
        yield "call", call_text(call)
        result = next((m for m in pending if m.get("tool_call_id") == call["id"]), None)
        if result is None:
            yield "", Text("no result", QUIET)
        else:
            pending.remove(result)
            yield answer(result)
    for message in pending:
        yield answer(message)
    for line in state.lines(turn.state_diff or ()):
        yield "state", line


def call_text(call: Mapping[str, Any]) -> Text:
    """Return a call as it would be written in Python; one that could not be read as it was sampled."""
    name = printable(str(call.get("name") or "?"))
    if "raw" in call:
        return Text.assemble((name, f"bold {CALL}"), "  ", (printable(str(call["raw"])), WARN))
    arguments = call.get("arguments")
    listed = arguments.items() if isinstance(arguments, dict) else [("", arguments)]
    line = Text.assemble((name, f"bold {CALL}"), ("(", QUIET))
    for index, (key, value) in enumerate(listed):
        line.append(", " if index else "", QUIET)
        line.append(f"{printable(str(key))}=", CALL).append(_short(value))
    return line.append(")", QUIET)


def answer_text(message: Message) -> str:
    """Return what a message says: an error as type and message."""
    return _error(message.get("content")) if message.get("is_error") else content_text(message).plain


def answer(message: Message) -> tuple[str, Text]:
    """Return the label and the text of what an environment said."""
    if message.get("is_error"):
        return "error", Text(_error(message.get("content")), BAD)
    role = str(message.get("role", "?"))
    return ("result" if role == "tool" else role), content_text(message)


def _error(content: Any) -> str:
    try:
        error = json.loads(content)["error"]
        return printable(f"{error['type']}: {error['message']}")
    except (ValueError, KeyError, TypeError):
        return printable(str(content))


def content_text(message: Mapping[str, Any]) -> Text:
    """Return what a message says."""
    content = message.get("content")
    text = content if isinstance(content, str) else _short(content)
    return Text(printable(text.strip("\n"))) if text.strip() else Text("empty", f"italic {QUIET}")


def _end(trajectory: Trajectory) -> Text:
    line = Text.assemble(("end   ", "bold"), stop_text(trajectory.stop_reason, None))
    if trajectory.failure:
        line.append(f" at the {trajectory.failure.boundary}: {printable(trajectory.failure.cause)}", BAD)
    if trajectory.reward is not None:
        line.append(f"   reward {number(trajectory.reward)}", GOOD if trajectory.success else BAD)
    return line


def _short(value: Json) -> str:
    return printable(json.dumps(value, ensure_ascii=False, default=str))


def _plain(value: Json) -> str:
    return printable(value) if isinstance(value, str) and value else _short(value)


def rule(title: Text) -> Rule:
    """Return a line across the screen that begins with a title."""
    return Rule(title, align="left", characters="─", style=QUIET)


def grid(lines: Iterable[tuple[str, Text]]) -> Table:
    """Return labelled lines: labels right-aligned in a gutter, text beside them."""
    styles = {"call": CALL, "error": BAD, "state": "magenta", "user": "bold", "assistant": "bold", "filtered": WARN}
    grid = Table.grid(padding=(0, 2))
    grid.add_column(width=_GUTTER, justify="right", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, text in lines:
        grid.add_row(Text(printable(label), styles.get(label, QUIET)), text)
    return grid
