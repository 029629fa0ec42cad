"""Reads a run's episodes, also while the run is writing them: pages, one episode in full, sums per step.

It holds a read-only connection and knows nothing of how anything is shown.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeAlias

from agentgrpo.errors import UserError, nearest
from agentgrpo.store.codec import decode, decode_record
from agentgrpo.store.episodes import key_values
from agentgrpo.store.filter import Filter
from agentgrpo.store.packing import unpack_beside, unpack_entropies
from agentgrpo.store.query import Plan, Planner
from agentgrpo.store.rows import (
    COLUMNS,
    EpisodeFilter,
    EpisodeRow,
    FacetRow,
    StepRow,
    StoredEpisode,
    parse_key,
)
from agentgrpo.store.schema import connect_readonly, is_full_text
from agentgrpo.types import EpisodeKey, JsonObject, Phase, Trajectory

Where: TypeAlias = Filter | EpisodeFilter | None


_Segment: TypeAlias = tuple[str, list[str], list[Any]]  # condition, sort columns, arguments

ORDERS = tuple(
    name for name in COLUMNS if name not in ("sample", "attempt", "boundary", "cause", "parent", "parent_turns")
)

_NULLABLE = ("reward", "success", "advantage", "filter_reason")
_OWN = "phase != 'fork'"  # what a run played itself
_ROW = ", ".join(f"e.{name}" for name in COLUMNS)
_SELECT = f"SELECT {_ROW} FROM episodes AS e"
_GROUP = "phase = ? AND step = ? AND task_id = ?"


class EpisodeReader:
    """The reading end of an episode file. Any thread may use it, one at a time.

    Raises:
        UserError: there is no such file, it holds no episodes, or a newer agentgrpo wrote it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._connection = connect_readonly(self.path)
        self._planner = Planner(self._connection, is_full_text=is_full_text(self._connection))

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> EpisodeReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def list(
        self,
        where: Where = None,
        *,
        order: str = "id",
        descending: bool = True,
        limit: int = 50,
        after: int | None = None,
    ) -> list[EpisodeRow]:
        """Return a page of episodes; those whose `order` column is unknown come last either way.

        Args:
            where: Which episodes; default all.
            order: A name of `ORDERS`; ties are broken by id, in the same direction.
            descending: From high to low.
            limit: Most rows to return.
            after: The id of the last row of the page before.
        """
        if order not in ORDERS:
            raise UserError(
                f"episodes cannot be sorted by '{order}'.{nearest(order, ORDERS)} Use: {', '.join(ORDERS)}."
            )
        plan = self._planner.plan(where, order)
        way = "DESC" if descending else "ASC"
        rows: list[Any] = []
        for condition, columns, values in self._segments(plan, order, descending, after):
            if len(rows) == limit:
                break
            ordering = ", ".join(f"{column} {way}" for column in columns)
            sql = f"SELECT {_ROW} FROM {plan.source} WHERE {plan.where} AND {condition} ORDER BY {ordering} LIMIT ?"
            rows += self._connection.execute(sql, (*plan.arguments, *values, limit - len(rows))).fetchall()
        return [EpisodeRow.of(row) for row in rows]

    def count(self, where: Where = None, *, most: int | None = None) -> int:
        """Return how many episodes there are; with `most`, at most one more than that, however many there are."""
        if where is None or where == Filter():
            return int(self._connection.execute("SELECT ifnull(sum(episodes), 0) FROM steps").fetchone()[0])
        plan = self._planner.plan(where)
        limit = -1 if most is None else most + 1
        sql = f"SELECT count(*) FROM (SELECT 1 FROM {plan.source} WHERE {plan.where} LIMIT ?)"
        return int(self._connection.execute(sql, (*plan.arguments, limit)).fetchone()[0])

    def get(self, which: int | str | EpisodeKey) -> StoredEpisode:
        """Return one episode by row id, by key, or by the text of either.

        Raises:
            UserError: there is none.
        """
        row = self.find(which)
        payload = self._connection.execute("SELECT * FROM payloads WHERE id = ?", (row.id,)).fetchone()
        packed, entropies = payload["learner_logprobs"], payload["entropies"]
        return StoredEpisode(
            row=row,
            trajectory=decode(payload["record"], payload["token_ids"], payload["logprobs"]),
            learner_logprobs=None if packed is None else tuple(unpack_beside(packed, payload["logprobs"])),
            entropies=None if entropies is None else tuple(unpack_entropies(entropies)),
        )

    def of_policy(self, version: int) -> dict[EpisodeKey, Trajectory]:
        """Return the episodes the run played with one version of the policy; what cannot be read is left out."""
        sql = f"""SELECT record, token_ids, logprobs FROM payloads JOIN episodes USING (id)
        WHERE policy_version = ? AND {_OWN}"""
        found = (readable(row) for row in self._connection.execute(sql, (version,)))
        return {trajectory.key: trajectory for trajectory in found if trajectory is not None}

    def group(self, key: EpisodeKey) -> Sequence[EpisodeRow]:
        """Return the episodes of a key's group, itself included, by sample and attempt."""
        sql = f"{_SELECT} WHERE {_GROUP} ORDER BY sample, attempt"
        return [EpisodeRow.of(row) for row in self._connection.execute(sql, key_values(key)[:3])]

    def steps(self) -> Sequence[StepRow]:
        """Return the sums of every step, in order."""
        return [StepRow(**dict(row)) for row in self._connection.execute("SELECT * FROM steps ORDER BY step, phase")]

    def facets(self, phase: Phase, first: int = 0, last: int = 2**62) -> Sequence[FacetRow]:
        """Return the sums of what episodes have in common, of each step from `first` to `last`, in order."""
        sql = "SELECT * FROM facets WHERE phase = ? AND step BETWEEN ? AND ? AND episodes > 0"
        return [FacetRow(**dict(row)) for row in self._connection.execute(sql, (phase, first, last))]

    def in_step(self, phase: Phase, step: int, limit: int) -> Sequence[EpisodeRow]:
        """Return the episodes of a step by task, sample and attempt."""
        sql = f"""SELECT {_ROW} FROM episodes AS e INDEXED BY episodes_by_step WHERE step = ? AND phase = ?
            ORDER BY task_id, sample, attempt LIMIT ?"""
        return [EpisodeRow.of(row) for row in self._connection.execute(sql, (step, phase, limit))]

    def names(self, kind: Literal["env", "tool"]) -> Sequence[str]:
        """Return the environments or the tools the episodes have, in order."""
        sql = "SELECT name FROM names WHERE kind = ? ORDER BY name"
        return [name for (name,) in self._connection.execute(sql, (kind,))]

    def successes(self, row: EpisodeRow, limit: int) -> Sequence[int]:
        """Return the ids of successful episodes of a task: of its group first, then the newest of others."""
        sql = """SELECT id FROM episodes INDEXED BY episodes_by_task WHERE task_id = ? AND success AND id != ?
            ORDER BY phase = ? AND step = ? DESC, id DESC LIMIT ?"""
        return [i for (i,) in self._connection.execute(sql, (row.task_id, row.id, row.phase, row.step, limit))]

    def record(self, row_id: int) -> JsonObject:
        """Return an episode's record as it is stored: everything but its tokens."""
        found = self._connection.execute("SELECT record FROM payloads WHERE id = ?", (row_id,)).fetchone()
        if found is None:
            raise UserError(f"no episode {row_id} in '{self.path}'. {self._advice(row_id)}")
        return decode_record(found["record"])

    def version(self) -> tuple[int, int]:
        """Return two numbers that change when something was written: SQLite's count, and the newest episode's id."""
        count = self._connection.execute("PRAGMA data_version").fetchone()[0]
        newest = self._connection.execute("SELECT max(id) FROM episodes").fetchone()[0]
        return int(count), int(newest or 0)

    def spent(self) -> dict[str, float]:
        """Return the tokens and the seconds the run's own episodes took, each counted by itself; forks left out."""
        sql = f"SELECT total(tokens), total(sampled_tokens), total(seconds) FROM episodes WHERE {_OWN}"
        tokens, sampled, seconds = self._connection.execute(sql).fetchone()
        return {"tokens": int(tokens), "sampled_tokens": int(sampled), "episode_seconds": round(seconds, 3)}

    def tally(self, column: str) -> dict[str, int]:
        """Return how many of the run's own episodes have each value of a column, unknown left out; so are forks."""
        if column not in COLUMNS:
            raise UserError(f"episodes have no column '{column}'.{nearest(column, COLUMNS)}")
        sql = f"SELECT {column}, count(*) FROM episodes WHERE {column} IS NOT NULL AND {_OWN} GROUP BY 1 ORDER BY 1"
        return {str(value): count for value, count in self._connection.execute(sql)}

    def _segments(self, plan: Plan, order: str, descending: bool, after: int | None) -> Iterator[_Segment]:
        """Yield (condition, sort columns, values) of the two parts of a page: value known, value unknown."""
        than = "<" if descending else ">"
        if order == "id":
            yield ("1", [plan.id], []) if after is None else (f"{plan.id} {than} ?", [plan.id], [after])
            return
        column = f"e.{order}"
        last = None if after is None else self._value_of(order, after)
        if after is None:
            yield f"{column} IS NOT NULL", [column, "e.id"], []
        elif last is not None:
            # A row value, so that SQLite walks the index from there: an OFFSET would count its way through.
            yield f"({column}, e.id) {than} (?, ?)", [column, "e.id"], [last, after]
        if order in _NULLABLE:
            is_inside = after is not None and last is None
            rest = f"{column} IS NULL" + (f" AND e.id {than} ?" if is_inside else "")
            yield rest, ["e.id"], [after] if is_inside else []

    def _value_of(self, order: str, row_id: int) -> Any:
        found = self._connection.execute(f"SELECT {order} FROM episodes WHERE id = ?", (row_id,)).fetchone()
        if found is None:
            raise UserError(
                f"the page cannot go on after episode {row_id}: it was replaced. Start from the first page."
            )
        return found[0]

    def find(self, which: int | str | EpisodeKey) -> EpisodeRow:
        """Return what the index knows of one episode, by row id, by key, or by the text of either.

        Raises:
            UserError: there is none.
        """
        if isinstance(which, str):
            which = int(which) if which.isdecimal() else parse_key(which)
        if isinstance(which, int):
            found = self._connection.execute(f"{_SELECT} WHERE id = ?", (which,)).fetchone()
        else:
            sql = f"{_SELECT} WHERE phase = ? AND step = ? AND task_id = ? AND sample = ? AND attempt = ?"
            found = self._connection.execute(sql, key_values(which)).fetchone()
        if found is None:
            raise UserError(f"no episode {which} in '{self.path}'. {self._advice(which)}")
        return EpisodeRow.of(found)

    def _advice(self, which: int | EpisodeKey) -> str:
        first, last = self._connection.execute("SELECT min(id), max(id) FROM episodes").fetchone()
        if first is None:
            return "It holds no episodes yet."
        mates = [str(row.key) for row in self.group(which)] if isinstance(which, EpisodeKey) else []
        if mates:
            return f"Of that task and step there are: {', '.join(mates)}."
        return f"Episodes are numbered {first} to {last}; list them without naming one."


def readable(row: sqlite3.Row) -> Trajectory | None:
    """Return the trajectory of a payload; None when its bytes are not what was written."""
    try:
        return decode(row["record"], row["token_ids"], row["logprobs"])
    except (ValueError, KeyError, TypeError):
        return None
