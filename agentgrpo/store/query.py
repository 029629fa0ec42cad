"""Filters as SQL that stays quick at a million episodes.

Every condition can be asked of one row; some can also list their episodes from an index. A plan drives the query from
the condition that finds fewest, or walks in the order asked for when none is rare. It knows tables, not meanings.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from agentgrpo.store.filter import TEXT, Between, Filter, Term, Test
from agentgrpo.store.rows import EpisodeFilter

RARE = 5000  # episodes: so many are fetched and sorted in some milliseconds
_MANY = 100_000  # so many ids are a quick set to look into; more are likely to be met soon by walking

_Sql: TypeAlias = tuple[str, tuple[Any, ...]]

_NUMBERS = {
    "step": "step",
    "sample": "sample",
    "attempt": "attempt",
    "reward": "reward",
    "advantage": "advantage",
    "turns": "turns",
    "calls": "tool_calls",
    "errors": "tool_errors",
    "tokens": "tokens",
    "sampled": "sampled_tokens",
    "forks": "forks",
    "seconds": "seconds",
    "id": "id",
    "parent": "parent",
    "policy": "policy_version",
    "stale": "step - 1 - e.policy_version",  # step s trains on episodes of version s - 1, or of older ones
}
_WORDS = {"phase": "phase", "stop": "stop_reason", "boundary": "boundary", "filtered": "filter_reason"}
_INDEXED = {"step": "step", "parent": "parent", "reward": "reward", "task": "task", "stop": "stop_reason"}
_FAILED = "(e.stop_reason = 'failed' OR ifnull(e.boundary IN ('reward', 'judge'), 0))"  # a score is missing too
_WALKS = {"reward": "reward", "step": "step", "task_id": "task", "stop_reason": "stop_reason"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """Where the episodes of a condition can be listed from; `d.<id>` is in order for a `single` value."""

    table: str
    id: str
    where: str
    arguments: tuple[Any, ...]
    single: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """A condition on a row `e` of `episodes`."""

    test: str
    arguments: tuple[Any, ...] = ()
    driver: Driver | None = None
    is_text: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The part of a query from FROM on, up to what the caller adds; `id` is the column that is in order."""

    source: str
    where: str
    arguments: tuple[Any, ...]
    id: str = "e.id"


class Planner:
    """Plans queries over one episode file."""

    def __init__(self, connection: sqlite3.Connection, *, is_full_text: bool) -> None:
        self._connection = connection
        self._is_full_text = is_full_text

    def plan(self, where: Filter | EpisodeFilter | None, order: str = "id") -> Plan:
        """Return how to find the episodes of a filter in an order."""
        conditions = [self._condition(term) for term in as_filter(where).terms]
        if any(condition.test == "0" for condition in conditions):
            return Plan(source="episodes AS e", where="0", arguments=())
        sizes = {i: self._size(c.driver, RARE) for i, c in enumerate(conditions) if c.driver is not None}
        best = min(sizes, key=lambda i: sizes[i], default=None)
        if best is not None:
            driver = conditions[best].driver
            assert driver is not None
            if driver.table == f"episodes AS d {_index(order)}":
                return self._walked(conditions, order)  # the index lists them in order: nothing is sorted
            if sizes[best] <= RARE or (order == "id" and driver.single):
                return self._driven(driver, [c for i, c in enumerate(conditions) if i != best])
        return self._walked(conditions, order)

    def _driven(self, driver: Driver, others: Sequence[Condition]) -> Plan:
        # CROSS: SQLite keeps this order of the loops.
        source = f"{driver.table} CROSS JOIN episodes AS e ON e.id = d.{driver.id}"
        tests = [self._test(condition) for condition in others]
        return Plan(
            source=source,
            where=" AND ".join([driver.where, *(sql for sql, _ in tests)]),
            arguments=(*driver.arguments, *(value for _, values in tests for value in values)),
            id=f"d.{driver.id}",
        )

    def _walked(self, conditions: Sequence[Condition], order: str) -> Plan:
        tests = [self._test(condition) for condition in conditions]
        return Plan(
            source=f"episodes AS e {_index(order)}",
            where=" AND ".join(["1", *(sql for sql, _ in tests)]),
            arguments=tuple(value for _, values in tests for value in values),
        )

    def _test(self, condition: Condition) -> _Sql:
        driver = condition.driver
        if condition.is_text and driver is not None and self._size(driver, _MANY) <= _MANY:
            listed = f"e.id IN (SELECT d.{driver.id} FROM {driver.table} WHERE {driver.where})"
            return listed, driver.arguments
        return condition.test, condition.arguments

    def _size(self, driver: Driver, most: int) -> int:
        """Return how many episodes a driver lists, counted up to one more than `most`."""
        sql = f"SELECT count(*) FROM (SELECT 1 FROM {driver.table} WHERE {driver.where} LIMIT {most + 1})"
        return int(self._connection.execute(sql, driver.arguments).fetchone()[0])

    def _condition(self, term: Term) -> Condition:
        parts = [self._of_value(term.field, value) for value in term.values]
        if term.negated:
            parts = [part for part in parts if part.test != "0"]
            test = " OR ".join(part.test for part in parts)
            negated = f"({test}) IS NOT TRUE" if parts else "1"
            return Condition(test=negated, arguments=tuple(a for part in parts for a in part.arguments))
        if len(parts) == 1:
            return parts[0]
        parts = [part for part in parts if part.test != "0"]
        test = f"({' OR '.join(part.test for part in parts)})" if parts else "0"
        return Condition(test=test, arguments=tuple(a for part in parts for a in part.arguments))

    def _of_value(self, name: str, value: Test) -> Condition:
        if isinstance(value, Between):
            return _between(name, value)
        if name in ("tool", "error"):
            return self._tool(str(value), failed=name == "error")
        if name == "env":
            return _one_of("env_id", self._names("env", str(value)))
        if name == "task":
            return _task(clean(str(value)))
        if name == "success":
            return Condition(test="e.success IS ?", arguments=({"yes": 1, "no": 0}.get(str(value)),))
        if name == "failed":
            return Condition(test=f"{_FAILED} = ?", arguments=(int(value == "yes"),))
        if name == TEXT:
            return self._text(clean(str(value)))
        if name == "cause" and value is not None:
            return Condition(test="instr(lower(e.cause), ?)", arguments=(clean(value).lower(),))
        if name == "policy":
            return Condition(test="e.policy LIKE ? ESCAPE '\\'", arguments=(_like(clean(str(value))),))
        column = _WORDS.get(name) or _NUMBERS.get(name, name)
        if value is None:
            return Condition(test=f"e.{column} IS NULL")
        return _equals(name, column, clean(value))

    def _tool(self, part: str, *, failed: bool) -> Condition:
        found = self._names("tool", part)
        if not found:
            return Condition(test="0")
        numbers = ", ".join(str(number) for number, _ in found)
        errors = " AND d.errors > 0" if failed else ""
        test = f"EXISTS (SELECT 1 FROM episode_tools AS d WHERE d.tool IN ({numbers}) AND d.episode = e.id{errors})"
        # An episode may have called several of them: only one of them lists no episode twice.
        driver = Driver(
            table="episode_tools AS d",
            id="episode",
            where=f"d.tool IN ({numbers}){errors}",
            arguments=(),
            single=True,
        )
        return Condition(test=test, driver=driver if len(found) == 1 else None)

    def _names(self, kind: str, part: str) -> list[tuple[int, str]]:
        """Return the names a text stands for: the one it is, else those it is a part of; `*` stands for anything."""
        sql = "SELECT id, name FROM names WHERE kind = ? ORDER BY name"
        known = [(number, name) for number, name in self._connection.execute(sql, (kind,))]
        wanted = part.lower()
        exact = [pair for pair in known if pair[1].lower() == wanted]
        if exact or "*" not in part:
            return exact or [pair for pair in known if wanted in pair[1].lower()]
        sql = "SELECT id, name FROM names WHERE kind = ? AND lower(name) GLOB ? ORDER BY name"
        return [(number, name) for number, name in self._connection.execute(sql, (kind, _glob(clean(wanted))))]

    def _text(self, text: str) -> Condition:
        if not text.strip():
            return Condition(test="1")
        if not self._is_full_text:
            test = "EXISTS (SELECT 1 FROM texts AS d WHERE d.rowid = e.id AND instr(lower(d.text), ?))"
            return Condition(test=test, arguments=(text.lower(),))
        # One quoted phrase: the query language of FTS5 is not offered, so nothing in the text can break it.
        phrase = text.replace('"', '""').replace("\0", " ")
        argument = (f'"{phrase}" *',)
        driver = Driver(table="texts AS d", id="rowid", where="d.texts MATCH ?", arguments=argument, single=True)
        test = "EXISTS (SELECT 1 FROM texts AS d WHERE d.texts MATCH ? AND d.rowid = e.id)"
        return Condition(test=test, arguments=argument, driver=driver, is_text=True)


def _index(order: str) -> str:
    return f"INDEXED BY episodes_by_{_WALKS[order]}" if order in _WALKS else "NOT INDEXED"


def as_filter(where: Filter | EpisodeFilter | None) -> Filter:
    """Return the conditions in the terms of the filter language."""
    if where is None:
        return Filter()
    return where if isinstance(where, Filter) else Filter(terms=tuple(_terms(where)))


def _terms(where: EpisodeFilter) -> Iterator[Term]:
    names = {"phase": where.phase, "task": where.task_id, "env": where.env_id, "stop": where.stop_reason}
    names |= {"filtered": where.filter_reason, TEXT: where.contains}
    yield from (Term(field=name, values=(value,)) for name, value in names.items() if value is not None)
    for name, number in (("step", where.step), ("policy", where.policy_version), ("parent", where.parent)):
        if number is not None:
            yield Term(field=name, values=(Between(low=number, high=number),))
    if where.success is not None:
        yield Term(field="success", values=("yes" if where.success else "no",))
    if where.failed is not None:
        yield Term(field="failed", values=("yes" if where.failed else "no",))
    if where.min_reward is not None or where.max_reward is not None:
        yield Term(field="reward", values=(Between(low=where.min_reward, high=where.max_reward),))


def clean(text: str) -> str:
    """Return text that SQLite can hold: lone surrogates become question marks."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _between(name: str, value: Between) -> Condition:
    column = _NUMBERS[name]
    low = (f"e.{column} {'>' if value.open_low else '>='} ?", value.low)
    high = (f"e.{column} {'<' if value.open_high else '<='} ?", value.high)
    if value.low == value.high:
        bounds = [(f"e.{column} = ?", value.low)]
    else:
        bounds = [bound for bound in (low, high) if bound[1] is not None]
    test, arguments = " AND ".join(sql for sql, _ in bounds), tuple(number for _, number in bounds)
    if name == "stale":
        test = f"(e.phase = 'train' AND {test})"
    driver = None
    if name in _INDEXED:
        where = " AND ".join([f"d.{column} IS NOT NULL", *(sql.replace("e.", "d.", 1) for sql, _ in bounds)])
        driver = _indexed(name, where, arguments, single=value.low == value.high and name != "parent")
    return Condition(test=f"({test})", arguments=arguments, driver=driver)


def _equals(name: str, column: str, value: str) -> Condition:
    driver = _indexed(name, f"d.{column} = ?", (value,), single=True) if name in _INDEXED else None
    return Condition(test=f"e.{column} = ?", arguments=(value,), driver=driver)


def _one_of(column: str, found: Sequence[tuple[int, str]]) -> Condition:
    if not found:
        return Condition(test="0")
    slots = ", ".join("?" * len(found))
    return Condition(test=f"e.{column} IN ({slots})", arguments=tuple(name for _, name in found))


def _task(value: str) -> Condition:
    if "*" not in value:
        return _equals("task", "task_id", value)
    start = value.partition("*")[0]
    pattern = _glob(value)
    test = Condition(test="e.task_id GLOB ?", arguments=(pattern,))
    if not start:
        return test
    where, arguments = "d.task_id >= ? AND d.task_id < ? AND d.task_id GLOB ?", (start, start + "\U0010ffff", pattern)
    driver = _indexed("task", where, arguments, single=False)
    return Condition(test=test.test, arguments=test.arguments, driver=driver)


def _indexed(name: str, where: str, arguments: tuple[Any, ...], *, single: bool) -> Driver:
    table = f"episodes AS d INDEXED BY episodes_by_{_INDEXED[name]}"
    return Driver(table=table, id="id", where=where, arguments=arguments, single=single)


def _glob(text: str) -> str:
    """Return a GLOB pattern in which only the asterisk is special."""
    return text.replace("[", "[[]").replace("?", "[?]")


def _like(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped}%"
