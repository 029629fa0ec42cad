"""Reads a run's episodes, also while the run is writing them: pages, one episode in full, sums per step.

It holds a read-only connection and knows nothing of how anything is shown.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias, cast, get_args

from agentgrpo.errors import UserError, nearest
from agentgrpo.store.codec import decode, unpack_logprobs
from agentgrpo.store.episodes import clean, key_values
from agentgrpo.store.schema import connect_readonly, is_full_text
from agentgrpo.types import EpisodeKey, Phase, StopReason, Trajectory


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeRow:
    """What the index knows about an episode. `reward` is None when it was not scored or is not finite."""

    id: int
    phase: Phase
    step: int
    task_id: str
    sample: int
    attempt: int
    env_id: str
    policy: str
    policy_version: int
    reward: float | None
    success: bool | None
    turns: int
    tokens: int
    sampled_tokens: int
    tool_calls: int
    tool_errors: int
    stop_reason: StopReason
    boundary: str | None
    cause: str | None
    forks: int
    started_at: float
    seconds: float
    advantage: float | None
    filter_reason: str | None
    parent: int | None = None  # of a fork: the id of the episode it was forked from, which may have been replaced since
    parent_turns: int | None = None  # how many of that one's turns it begins with

    @property
    def key(self) -> EpisodeKey:
        """What identifies the episode within its run."""
        return EpisodeKey(
            phase=self.phase, step=self.step, task_id=self.task_id, sample=self.sample, attempt=self.attempt
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEpisode:
    """One episode in full."""

    row: EpisodeRow
    trajectory: Trajectory
    learner_logprobs: tuple[float, ...] | None = None  # in the order of TrainingRow.logprobs

    def learner_logprobs_of_spans(self) -> dict[int, tuple[float, ...]]:
        """Return the learner's logprobs by index of the span they belong to; {} when there are none."""
        if self.learner_logprobs is None:
            return {}
        values = iter(self.learner_logprobs)
        spans = self.trajectory.spans
        found: dict[int, tuple[float, ...]] = {}
        for leaf in self.trajectory.leaves():
            for index in self.trajectory.path(leaf):
                if spans[index].sampled and index not in found:
                    found[index] = tuple(islice(values, len(spans[index].token_ids)))
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRow:
    """Sums over the episodes of one step; divide `reward` and `successes` by `scored`."""

    phase: Phase
    step: int
    episodes: int
    scored: int
    reward: float
    successes: int
    turns: int
    sampled_tokens: int
    tool_calls: int
    tool_errors: int
    failed: int
    filtered: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeFilter:
    """Which episodes; None is no condition. `task_id` may hold the wildcard `*`."""

    phase: Phase | None = None
    step: int | None = None
    task_id: str | None = None
    env_id: str | None = None
    stop_reason: StopReason | None = None
    filter_reason: str | None = None
    policy_version: int | None = None
    success: bool | None = None
    failed: bool | None = None  # ended, or left without a score, by a failure, not by an unsuccessful agent
    min_reward: float | None = None
    max_reward: float | None = None
    parent: int | None = None  # forks of the episode with this id
    contains: str | None = None  # words in this order, the last may be unfinished, in any case


_Where: TypeAlias = tuple[list[str], list[Any]]  # conditions, their arguments
_Segment: TypeAlias = tuple[str, list[str], list[Any]]  # condition, sort columns, arguments

COLUMNS = tuple(field.name for field in fields(EpisodeRow))
ORDERS = tuple(
    name for name in COLUMNS if name not in ("sample", "attempt", "boundary", "cause", "parent", "parent_turns")
)

_NULLABLE = ("reward", "success", "advantage", "filter_reason")

_OWN = "phase != 'fork'"  # what a run played itself
_SELECT = f"SELECT {', '.join(COLUMNS)} FROM episodes"
_CONDITIONS = {
    **{name: f"{name} = ?" for name in ("phase", "step", "env_id", "stop_reason", "filter_reason")},
    **{name: f"{name} = ?" for name in ("policy_version", "success", "parent")},
    "failed": "(stop_reason = 'failed' OR ifnull(boundary IN ('reward', 'judge'), 0)) = ?",
    "min_reward": "reward >= ?",
    "max_reward": "reward <= ?",
}


class EpisodeReader:
    """The reading end of an episode file. Any thread may use it, one at a time.

    Raises:
        UserError: there is no such file, it holds no episodes, or a newer agentgrpo wrote it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._connection = connect_readonly(self.path)

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
        where: EpisodeFilter | None = None,
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
        rows: list[sqlite3.Row] = []
        for condition, columns, values in self._segments(order, descending, after):
            way = "DESC" if descending else "ASC"
            ordering = ", ".join(f"{column} {way}" for column in columns)
            conditions, arguments = self._conditions(where)
            sql = f"{_SELECT} WHERE {' AND '.join([*conditions, condition])} ORDER BY {ordering} LIMIT ?"
            rows += self._connection.execute(sql, (*arguments, *values, limit - len(rows))).fetchall()
        return [_row(row) for row in rows]

    def count(self, where: EpisodeFilter | None = None) -> int:
        """Return how many episodes there are."""
        conditions, arguments = self._conditions(where)
        sql = f"SELECT count(*) FROM episodes WHERE {' AND '.join(['1', *conditions])}"
        return int(self._connection.execute(sql, arguments).fetchone()[0])

    def get(self, which: int | str | EpisodeKey) -> StoredEpisode:
        """Return one episode by row id, by key, or by the text of either.

        Raises:
            UserError: there is none.
        """
        row = self._find(which)
        payload = self._connection.execute("SELECT * FROM payloads WHERE id = ?", (row.id,)).fetchone()
        packed = payload["learner_logprobs"]
        return StoredEpisode(
            row=row,
            trajectory=decode(payload["record"], payload["token_ids"], payload["logprobs"]),
            learner_logprobs=None if packed is None else tuple(unpack_logprobs(packed)),
        )

    def of_policy(self, version: int) -> dict[EpisodeKey, Trajectory]:
        """Return the episodes the run played with one version of the policy; what cannot be read is left out."""
        sql = f"""SELECT record, token_ids, logprobs FROM payloads JOIN episodes USING (id)
        WHERE policy_version = ? AND {_OWN}"""
        found = (readable(row) for row in self._connection.execute(sql, (version,)))
        return {trajectory.key: trajectory for trajectory in found if trajectory is not None}

    def group(self, key: EpisodeKey) -> Sequence[EpisodeRow]:
        """Return the episodes of a key's group, itself included, by sample and attempt."""
        sql = f"{_SELECT} WHERE phase = ? AND step = ? AND task_id = ? ORDER BY sample, attempt"
        return [_row(row) for row in self._connection.execute(sql, key_values(key)[:3])]

    def steps(self) -> Sequence[StepRow]:
        """Return the sums of every step, in order."""
        return [StepRow(**dict(row)) for row in self._connection.execute("SELECT * FROM steps ORDER BY step, phase")]

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

    def _segments(self, order: str, descending: bool, after: int | None) -> Iterator[_Segment]:
        """Yield (condition, sort columns, values) of the two parts of a page: value known, value unknown."""
        than = "<" if descending else ">"
        last = None if after is None else self._value_of(order, after)
        if after is None:
            yield f"{order} IS NOT NULL", [order, "id"], []
        elif last is not None:
            # A row value, so that SQLite walks the index from there: an OFFSET would count its way through.
            yield f"({order}, id) {than} (?, ?)", [order, "id"], [last, after]
        if order in _NULLABLE:
            is_inside = after is not None and last is None
            yield f"{order} IS NULL" + (f" AND id {than} ?" if is_inside else ""), ["id"], [after] if is_inside else []

    def _value_of(self, order: str, row_id: int) -> Any:
        if order == "id":
            return row_id
        found = self._connection.execute(f"SELECT {order} FROM episodes WHERE id = ?", (row_id,)).fetchone()
        if found is None:
            raise UserError(
                f"the page cannot go on after episode {row_id}: it was replaced. Start from the first page."
            )
        return found[0]

    def _conditions(self, where: EpisodeFilter | None) -> _Where:
        conditions, arguments = [], []
        for field in fields(EpisodeFilter) if where else ():
            value = getattr(where, field.name)
            if value is not None:
                condition, argument = self._condition(field.name, value)
                conditions.append(condition)
                arguments.append(argument)
        return conditions, arguments

    def _condition(self, name: str, value: Any) -> tuple[str, Any]:
        if name == "task_id":
            return ("task_id GLOB ?" if "*" in value else "task_id = ?"), clean(value)
        if name == "contains":
            return self._text_condition(clean(value))
        return _CONDITIONS[name], value

    def _text_condition(self, text: str) -> tuple[str, str]:
        if self._is_full_text:
            # One quoted phrase: the query language of FTS5 is not offered, so nothing in the text can break it.
            phrase = text.replace('"', '""').replace("\0", " ")
            return "id IN (SELECT rowid FROM texts WHERE texts MATCH ?)", f'"{phrase}" *'
        return "id IN (SELECT rowid FROM texts WHERE instr(lower(text), ?))", text.lower()

    @cached_property
    def _is_full_text(self) -> bool:
        return is_full_text(self._connection)

    def _find(self, which: int | str | EpisodeKey) -> EpisodeRow:
        if isinstance(which, str):
            which = int(which) if which.isdecimal() else parse_key(which)
        if isinstance(which, int):
            found = self._connection.execute(f"{_SELECT} WHERE id = ?", (which,)).fetchone()
        else:
            sql = f"{_SELECT} WHERE phase = ? AND step = ? AND task_id = ? AND sample = ? AND attempt = ?"
            found = self._connection.execute(sql, key_values(which)).fetchone()
        if found is None:
            raise UserError(f"no episode {which} in '{self.path}'. {self._advice(which)}")
        return _row(found)

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
    except (zlib.error, ValueError, KeyError, TypeError):
        return None


def parse_key(text: str) -> EpisodeKey:
    """Return the key whose text this is: phase/step/task/sample, and .attempt if there was more than one.

    Raises:
        UserError: it is not the text of a key.
    """
    try:
        phase, step, rest = text.split("/", 2)
        task_id, sample = rest.rsplit("/", 1)
        number, _, attempt = sample.partition(".")
        return EpisodeKey(
            phase=_phase(phase), step=int(step), task_id=task_id, sample=int(number), attempt=int(attempt or 0)
        )
    except ValueError as error:
        raise UserError(
            f"'{text}' names no episode: expected a row number, or phase/step/task/sample like train/3/shop-12/0."
        ) from error


def _phase(text: str) -> Phase:
    for phase in get_args(Phase):
        if text == phase:
            return cast(Phase, phase)
    raise ValueError(text)


def _row(row: sqlite3.Row) -> EpisodeRow:
    values = dict(row)
    values["stop_reason"] = StopReason(values["stop_reason"])
    values["success"] = None if values["success"] is None else bool(values["success"])
    return EpisodeRow(**values)
