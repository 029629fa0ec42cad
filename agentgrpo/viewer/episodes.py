"""Episodes as the page gets them: pages of the list, one in full, several side by side.

It reads the store and adds what follows from it (what is unexpected, where episodes part); it draws nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agentgrpo.store.changes import Change, Judgement, Unknown, changes_of, judge
from agentgrpo.store.filter import Filter, parse_filter
from agentgrpo.store.reader import EpisodeReader
from agentgrpo.store.rows import EpisodeFilter, EpisodeRow, StoredEpisode
from agentgrpo.types import JsonObject, Message, Turn
from agentgrpo.viewer.alignment import align
from agentgrpo.viewer.runs import OpenRun
from agentgrpo.viewer.tokens import token_data
from agentgrpo.viewer.vocabulary import Vocabulary

PAGE = 100  # rows
MOST_COUNTED = 10_000
COMPARED = 8  # successful episodes of the same task
LONGEST_CELL = 1500  # characters of one text in a column; the episode itself shows all
MOST_COLUMNS = 32


def list_data(run: OpenRun, text: str, order: str, descending: bool, after: int | None, limit: int) -> JsonObject:
    """Return a page of episodes that a filter finds."""
    where = parse_filter(text)
    if not run.has_episodes:
        return {"rows": [], "more": False}
    with run.reader() as reader:
        rows = reader.list(where, order=order, descending=descending, limit=limit + 1, after=after)
    return {"rows": [row_data(row) for row in rows[:limit]], "more": len(rows) > limit}


def count_data(run: OpenRun, text: str) -> JsonObject:
    """Return how many episodes a filter finds, counted up to a bound, and how many there are."""
    where = parse_filter(text)
    if not run.has_episodes:
        return {"count": 0, "more": False, "total": 0}
    with run.reader() as reader:
        total = reader.count()
        found = total if where == Filter() else reader.count(where, most=MOST_COUNTED)
    is_more = where != Filter() and found > MOST_COUNTED
    return {"count": MOST_COUNTED if is_more else found, "more": is_more, "total": total}


def row_data(row: EpisodeRow) -> JsonObject:
    """Return a row of the list."""
    return {
        "id": row.id,
        "key": str(row.key),
        "phase": row.phase,
        "step": row.step,
        "task": row.task_id,
        "sample": row.sample,
        "attempt": row.attempt,
        "env": row.env_id,
        "policy": row.policy,
        "version": row.policy_version,
        "reward": row.reward,
        "success": row.success,
        "turns": row.turns,
        "tokens": row.tokens,
        "sampled": row.sampled_tokens,
        "calls": row.tool_calls,
        "errors": row.tool_errors,
        "stop": row.stop_reason,
        "boundary": row.boundary,
        "cause": row.cause,
        "forks": row.forks,
        "started": row.started_at,
        "seconds": row.seconds,
        "advantage": row.advantage,
        "filtered": row.filter_reason,
        "parent": row.parent,
        "parent_turns": row.parent_turns,
    }


def open_episode(run: OpenRun, which: str, *, with_tokens: bool = False) -> JsonObject:
    """Return one episode in full, with its group, its forks and how its changes compare.

    Args:
        run: Where it is.
        which: Its number in the list or its key.
        with_tokens: Also its tokens, as text: what a page that stands alone needs.
    """
    with run.reader() as reader:
        stored = reader.get(which)
        group = reader.group(stored.row.key)
        forks = reader.list(EpisodeFilter(parent=stored.row.id), descending=False, limit=MOST_COLUMNS)
        parent = _parent(reader, stored.row)
        verdict = _verdict(reader, stored)
    data = episode_data(stored, verdict)
    data |= {
        "run": run.name,
        "group": [row_data(row) for row in group],
        "forked": [row_data(row) for row in forks],
        "parent": None if parent is None else row_data(parent),
    }
    if with_tokens:
        data["tokens"] = token_data(stored, run.vocabulary)
    return data


def episode_data(
    stored: StoredEpisode, verdict: Judgement | None = None, vocabulary: Vocabulary | None = None
) -> JsonObject:
    """Return one episode in full as JSON data; with a vocabulary also its tokens, for a page that stands alone."""
    trajectory = stored.trajectory
    changes = changes_of(turn.state_diff for turn in trajectory.turns)
    verdict = verdict or judge(changes, [])
    sampled: dict[int, int] = {}
    for span in trajectory.spans:
        if span.sampled:
            sampled[span.turn] = sampled.get(span.turn, 0) + len(span.token_ids)
    data: JsonObject = {
        "row": row_data(stored.row),
        "seed": trajectory.seed,
        "prompt": list(trajectory.prompt),
        "tools": list(trajectory.tools),
        "reward": trajectory.reward,
        "terms": dict(trajectory.reward_terms),
        "info": trajectory.info,
        "is_text": trajectory.is_text,
        "paths": len(trajectory.sequences()),
        "turns": [
            _turn_data(turn, None if found is None else [_change_data(c, verdict) for c in found])
            | {"sampled": sampled.get(index, 0)}
            for index, (turn, found) in enumerate(zip(trajectory.turns, changes, strict=True))
        ],
        "compared": verdict.compared,
        "missing": [_change_data(change, verdict) for change in verdict.missing],
        "group": [],
        "forked": [],
        "parent": None,
    }
    if vocabulary is not None:
        data["tokens"] = token_data(stored, vocabulary)
    return data


def columns_data(picks: Sequence[tuple[OpenRun, str]]) -> JsonObject:
    """Return episodes side by side, aligned by turn.

    Args:
        picks: For each column its run, and the episode's number or key.
    """
    columns = []
    for run, which in picks[:MOST_COLUMNS]:
        with run.reader() as reader:
            row = reader.find(which)
            columns.append((run.name, row, reader.record(row.id)))
    return _side_by_side(columns)


def group_data(run: OpenRun, which: str) -> JsonObject:
    """Return the episodes of a group side by side; `which` is any one of them."""
    with run.reader() as reader:
        rows = reader.group(reader.find(which).key)
        columns = [(run.name, row, reader.record(row.id)) for row in rows[:MOST_COLUMNS]]
    return _side_by_side(columns) | {"is_cut": len(rows) > MOST_COLUMNS, "size": len(rows)}


def _side_by_side(columns: Sequence[tuple[str, EpisodeRow, JsonObject]]) -> JsonObject:
    found = align([[turn["action"] for turn in record["turns"]] for _, _, record in columns])
    return {
        "prompt": columns[0][2]["prompt"] if columns else [],
        "divergence": found.divergence,
        "columns": [
            {
                "run": name,
                "row": row_data(row),
                "terms": record["reward_terms"],
                "branches": branches,
                "turns": [_cell(turn) for turn in record["turns"]],
            }
            for (name, row, record), branches in zip(columns, found.branches, strict=True)
        ],
    }


def _cell(turn: Mapping[str, Any]) -> JsonObject:
    """Return a turn as it fits into a column: long texts cut."""
    calls = [
        {key: _cut(value) if isinstance(value, str) else value for key, value in call.items()}
        for call in turn["action"]["tool_calls"]
    ]
    return {
        "content": _cut(turn["action"].get("content") or ""),
        "reasoning": _cut(turn["action"].get("reasoning") or ""),
        "calls": calls,
        "messages": [message | {"content": _cut(message.get("content"))} for message in turn["messages"]],
        "changes": len(turn["state_diff"] or ()),
        "reward": turn["reward"],
        "finish": turn["finish_reason"],
    }


def _cut(value: Any) -> Any:
    if isinstance(value, str) and len(value) > LONGEST_CELL:
        return f"{value[:LONGEST_CELL]}\u2026 ({len(value) - LONGEST_CELL:,} more characters)"
    return value


def _parent(reader: EpisodeReader, row: EpisodeRow) -> EpisodeRow | None:
    if row.parent is None:
        return None
    found = reader.list(Filter(terms=parse_filter(f"id:{row.parent}").terms), limit=1)
    return found[0] if found else None  # it may have been made again under another number


def _verdict(reader: EpisodeReader, stored: StoredEpisode) -> Judgement:
    """Compare with successful episodes of the task; what a success did is right by definition."""
    changes = changes_of(turn.state_diff for turn in stored.trajectory.turns)
    if stored.row.success or all(found is None for found in changes):
        return judge(changes, [])
    others = [reader.record(number)["turns"] for number in reader.successes(stored.row, COMPARED)]
    return judge(changes, [changes_of(turn["state_diff"] for turn in turns) for turns in others])


def _turn_data(turn: Turn, changes: list[JsonObject] | None) -> JsonObject:
    messages: list[Message] = list(turn.messages)
    return {
        "action": turn.action,
        "messages": messages,
        "reward": turn.reward,
        "hash": turn.state_hash,
        "changes": changes,
        "generate": turn.generate_seconds,
        "env": turn.env_seconds,
        "finish": turn.finish_reason,
    }


def _change_data(change: Change, verdict: Judgement) -> JsonObject:
    data: JsonObject = {
        "kind": change.kind,
        "path": list(change.path),
        "unexpected": change.effect in verdict.unexpected,
    }
    data |= {} if isinstance(change.old, Unknown) else {"old": change.old}
    data |= {} if isinstance(change.new, Unknown) else {"new": change.new}
    return data | ({} if change.origin is None else {"from": change.origin})
