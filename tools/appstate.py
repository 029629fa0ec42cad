"""The state of a simulated app: a small SQLite database in memory with exact snapshots, a content hash and a diff.

It does not know what its tables mean. Every table must have a text column `id` as its primary key, and hold only text
and integers, so that a row has one JSON form. Triggers log each change, so that hash and diff cost what changed.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import struct
from collections.abc import Iterable
from functools import cache
from typing import ClassVar, Self, TypeAlias

from agentgrpo.errors import ToolError
from agentgrpo.jsonpointer import below
from agentgrpo.types import Json, JsonObject

Row: TypeAlias = dict[str, Json]
_MASK = 2**64 - 1
# Small pages: a table of a dozen rows fills one, so a whole app stays at a few kilobytes.
_PAGE = "PRAGMA page_size=1024;"
_CACHE = "PRAGMA cache_size=64"  # pages: they are copies of what is in memory anyway
_TELLS_OF_REPLACED = "PRAGMA recursive_triggers=ON"  # else a row that REPLACE took away is in no log
_TOO_LONG = "got a number of more than 64 bits; expected a smaller one"
_MOST_FREE = 64  # pages that deleted rows and a long change log left: more are not copied with every snapshot
_CARRIERS = ("user_version", "application_id")


class AppState:
    """Base of simulated apps: a subclass gives `schema` and adds the functions that act on it.

    Args:
        snapshot: What `snapshot()` returned; None makes an empty app.
    """

    schema: ClassVar[str]

    def __init__(self, snapshot: bytes | None = None) -> None:
        # Autocommit: serialize() would silently leave out an open transaction.
        self._db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self._db.row_factory = _as_dict
        self._db.execute(_CACHE)
        self._db.execute(_TELLS_OF_REPLACED)
        self._pending: dict[tuple[str, str], tuple[str | None, str | None]] = {}
        self._hash = 0
        if snapshot is None:
            self._db.executescript(_PAGE + self.schema + _change_log(self.schema))
            self._hash = self._full_hash()
        else:
            self.restore(snapshot)

    def snapshot(self) -> bytes:
        """Return the database's bytes."""
        self._take_log()
        self._carry_hash()
        if next(iter(self.rows("PRAGMA freelist_count")[0].values())) > _MOST_FREE:
            self._db.execute("VACUUM")
        return self._db.serialize()

    def restore(self, snapshot: bytes) -> None:
        """Go back to a snapshot; what changed until then is forgotten.

        Raises:
            sqlite3.DatabaseError: It is no snapshot, or one of another app.
        """
        self._db.deserialize(snapshot)
        names = {row["name"] for row in self.rows("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if names != {*_tables(self.schema), "change_log"}:
            raise sqlite3.DatabaseError(f"the snapshot is of another app: it has {', '.join(sorted(names))}")
        self._pending.clear()
        self._hash = self._carried_hash()

    def fork(self) -> Self:
        """Return an independent copy."""
        return type(self)(self.snapshot())

    def close(self) -> None:
        """Free the database."""
        self._db.close()

    def rows(self, sql: str, *parameters: str | int) -> list[Row]:
        """Return the rows of a query; none when a parameter is text that no row can hold (a lone surrogate).

        Raises:
            ToolError: A number is larger than SQLite's: a model may have written it.
        """
        try:
            return self._db.execute(sql, parameters).fetchall()
        except UnicodeEncodeError:
            return []
        except OverflowError as error:
            raise ToolError(_TOO_LONG) from error

    def row(self, sql: str, *parameters: str | int) -> Row | None:
        """Return the first row of a query, or None."""
        return next(iter(self.rows(sql, *parameters)), None)

    def change(self, sql: str, *parameters: str | int) -> None:
        """Run one statement that changes the state; a number that is too large is a ToolError, as in `rows`."""
        try:
            self._db.execute(sql, parameters)
        except OverflowError as error:
            raise ToolError(_TOO_LONG) from error

    def insert(self, table: str, rows: Iterable[Row]) -> None:
        """Add rows to a table; each names all of its columns. A number that is too large is a ToolError."""
        names = _tables(self.schema)[table]
        slots = ", ".join(f":{name}" for name in names)
        try:
            self._db.executemany(f"INSERT INTO {table} VALUES ({slots})", rows)
        except OverflowError as error:
            raise ToolError(_TOO_LONG) from error

    def state(self) -> JsonObject:
        """Return everything: `{table: {id: {column: value}}}`, ids in order."""
        return {
            table: {row.pop("id"): row for row in self.rows(f"SELECT * FROM {table} ORDER BY id")}
            for table in _tables(self.schema)
        }

    def state_hash(self) -> str:
        """Return the content's hash, kept up to date from the change log; history and page layout play no part."""
        self._take_log()
        return f"{self._hash:016x}"

    def content_hash(self) -> str:
        """Return the same hash as `state_hash`, computed from all rows."""
        return f"{self._full_hash():016x}"

    def state_diff(self) -> list[JsonObject]:
        """Return what changed since the last call as JSON Patch operations; [] when nothing did."""
        self._take_log()
        pending, self._pending = self._pending, {}
        operations: list[JsonObject] = []
        for (table, key), (before, after) in sorted(pending.items()):
            operations += _patch_row(below(f"/{table}", key), _fields(before), _fields(after))
        return operations

    # A snapshot carries its content's hash in two integers that SQLite leaves to the application, so that a copy of a
    # large app need not read all rows.

    def _carry_hash(self) -> None:
        if self._carried_hash() == self._hash:  # a write would count itself in the file: the same state, other bytes
            return
        for name, value in zip(_CARRIERS, struct.unpack("ii", self._hash.to_bytes(8, "little")), strict=True):
            self._db.execute(f"PRAGMA {name} = {value}")

    def _carried_hash(self) -> int:
        values = [next(iter(self.rows(f"PRAGMA {name}")[0].values())) for name in _CARRIERS]
        return int.from_bytes(struct.pack("ii", *values), "little")

    def _full_hash(self) -> int:
        total = 0
        for table, names in _tables(self.schema).items():
            for row in self.rows(f"SELECT {_row_json(names)} AS text FROM {table}"):
                total += _row_hash(table, row["text"])
        return total & _MASK

    def _take_log(self) -> None:
        log = self.rows("SELECT tbl, id, before, after FROM change_log ORDER BY rowid")
        if not log:
            return
        self._db.execute("DELETE FROM change_log")
        for entry in log:
            table, before, after = entry["tbl"], entry["before"], entry["after"]
            self._hash = (self._hash - _row_hash(table, before) + _row_hash(table, after)) & _MASK
            if entry["id"] is None:  # the row got another id: one is gone, one is new
                self._note(table, json.loads(before)["id"], before, None)
                self._note(table, json.loads(after)["id"], None, after)
            else:
                self._note(table, entry["id"], before, after)

    def _note(self, table: str, key: str, before: str | None, after: str | None) -> None:
        first = self._pending.get((table, key), (before, None))[0]
        self._pending[table, key] = (first, after)


def patch(before: JsonObject, after: JsonObject) -> list[JsonObject]:
    """Return the JSON Patch operations that lead from one `state()` to another."""
    operations: list[JsonObject] = []
    for table in sorted(before):
        for key in sorted(before[table].keys() | after[table].keys()):
            path = below(f"/{table}", key)
            operations += _patch_row(path, before[table].get(key), after[table].get(key))
    return operations


def _patch_row(path: str, before: Row | None, after: Row | None) -> list[JsonObject]:
    if before == after:
        return []
    if before is None:
        return [{"op": "add", "path": path, "value": after}]
    if after is None:
        return [{"op": "remove", "path": path}]
    changed = [name for name in before if before[name] != after[name]]
    # "old" is for people: RFC 6902 has readers ignore members they do not know.
    return [{"op": "replace", "path": below(path, name), "old": before[name], "value": after[name]} for name in changed]


def _fields(text: str | None) -> Row | None:
    if text is None:
        return None
    row: Row = json.loads(text)
    del row["id"]
    return row


def _row_hash(table: str, text: str | None) -> int:
    if text is None:
        return 0
    return int.from_bytes(hashlib.blake2b(f"{table}\0{text}".encode(), digest_size=8).digest(), "big")


def _row_json(names: Iterable[str], prefix: str = "") -> str:
    return "json_object(" + ", ".join(f"'{name}', {prefix}{name}" for name in names) + ")"


def _as_dict(cursor: sqlite3.Cursor, row: tuple[Json, ...]) -> Row:
    return {column[0]: value for column, value in zip(cursor.description, row, strict=True)}


@cache
def _tables(schema: str) -> dict[str, tuple[str, ...]]:
    """Return the columns of each table of a schema."""
    db = sqlite3.connect(":memory:")
    db.executescript(schema)
    tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
    columns = {table: tuple(row[1] for row in db.execute(f"PRAGMA table_info({table})")) for table in tables}
    db.close()
    return columns


@cache
def _change_log(schema: str) -> str:
    """Return the SQL of the change log. Snapshots hold it, empty: to make it anew takes ten times as long."""
    script = ["CREATE TABLE change_log (tbl TEXT, id TEXT, before TEXT, after TEXT);"]
    for table, names in _tables(schema).items():
        old, new = _row_json(names, "old."), _row_json(names, "new.")
        for event, key, before, after in (
            ("INSERT", "new.id", "NULL", new),
            ("UPDATE", "iif(old.id IS new.id, new.id, NULL)", old, new),
            ("DELETE", "old.id", old, "NULL"),
        ):
            script.append(
                f"CREATE TRIGGER log_{table}_{event} AFTER {event} ON {table} BEGIN "
                f"INSERT INTO change_log VALUES ('{table}', {key}, {before}, {after}); END;"
            )
    return "\n".join(script)
