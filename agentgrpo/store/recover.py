"""An episode file that a disk has damaged: set aside, and what can still be read of it kept.

A kill damages nothing (that is what the write-ahead log is for); a failing disk or a cut-off copy does.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from agentgrpo.errors import RunError
from agentgrpo.store.episodes import EpisodeStore, Item, Numbered, TrainingRow
from agentgrpo.store.packing import unpack_beside, unpack_entropies
from agentgrpo.store.reader import readable
from agentgrpo.store.run import writing
from agentgrpo.store.schema import connect
from agentgrpo.types import EpisodeKey

_Found: TypeAlias = tuple[int, list[Item]]

_BESIDE = ("train_steps", "rescores", "scores")  # in this order: scores name a rescore
# All columns of the payload: which there are is a matter of the file's version.
_SELECT = """SELECT payloads.*, advantage, filter_reason
FROM episodes JOIN payloads USING (id) WHERE id > ? AND id < ? ORDER BY id"""


def mend(path: Path) -> str | None:
    """Replace a damaged episode file by what can be read of it; return what to tell, None when nothing was wrong.

    Raises:
        RunError: the disk is full.
    """
    problem = _damage(path) if path.exists() else None
    if problem is None:
        return None
    aside = path.with_name(f"{path.stem}.damaged-{time.strftime('%Y%m%d-%H%M%S')}{path.suffix}")
    rescued = path.with_name(f".{path.name}.tmp")
    with writing("what can be read of the episodes", rescued):
        rescued.unlink(missing_ok=True)
        _lengthen(path)
        kept = _copy(path, rescued)
        # The log belongs to the damaged file: beside the new one it would be taken for that one's.
        path.rename(aside)
        for suffix in ("-wal", "-shm"):
            with suppress(FileNotFoundError):
                path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
        rescued.rename(path)
    return f"{path.name} was damaged ({problem}): kept as {aside.name}; {kept} episodes could be read and stay"


def _damage(path: Path) -> str | None:
    try:
        with closing(sqlite3.connect(path)) as connection:
            found = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.OperationalError as error:
        raise RunError(f"'{path}' cannot be opened: {error}. Free space or fix the folder, then resume.") from error
    except sqlite3.DatabaseError as error:
        return str(error)
    return None if found == "ok" else found.replace("\n", " ")


def _lengthen(path: Path) -> None:
    """Give a file that was cut off the length its header tells, with zeros: SQLite reads nothing of a shorter one."""
    with path.open("r+b") as file:
        header = file.read(100)
        if not header.startswith(b"SQLite format 3\0") or len(header) < 100:
            return
        page, pages = int.from_bytes(header[16:18], "big"), int.from_bytes(header[28:32], "big")
        told = (65536 if page == 1 else page) * pages
        if path.stat().st_size < told < 2**40:
            file.truncate(told)


def _copy(path: Path, target: Path) -> int:
    """Copy every readable episode from both ends of the file; return how many there were."""
    count, last = 0, -1
    with EpisodeStore(target) as store, closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        for row_id, items in _read(connection, _SELECT, -1, 2**62):
            store.add_sync(items)
            count, last = count + 1, row_id
        for _, items in _read(connection, f"{_SELECT} DESC", last, 2**62):
            store.add_sync(items)
            count += 1
    for table in _BESIDE:
        _copy_table(path, target, table)
    return count


def _copy_table(path: Path, target: Path, table: str) -> None:
    """Copy what can be read of a table beside the episodes; rows about an episode that is lost are lost with it."""
    with closing(sqlite3.connect(path)) as old, closing(connect(target)) as new:
        new.execute("BEGIN IMMEDIATE")
        with suppress(
            sqlite3.DatabaseError
        ):  # up to the first row that cannot be read; an older file has no such table
            for row in old.execute(f"SELECT * FROM {table}"):
                with suppress(sqlite3.IntegrityError):
                    new.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)
        new.execute("COMMIT")


def _read(connection: sqlite3.Connection, sql: str, after: int, before: int) -> Iterator[_Found]:
    """Yield the episodes up to the first page that cannot be read."""
    with suppress(sqlite3.DatabaseError):
        for row in connection.execute(sql, (after, before)):
            trajectory = readable(row)
            if trajectory is not None:
                yield row["id"], [Numbered(id=row["id"], trajectory=trajectory), _training(trajectory.key, row)]


def _training(key: EpisodeKey, row: sqlite3.Row) -> TrainingRow:
    """Return what the learner did with an episode, as far as it can be read."""
    packed, entropies = row["learner_logprobs"], dict(row).get("entropies")
    known = TrainingRow(key=key, advantage=row["advantage"], filter_reason=row["filter_reason"])
    with suppress(ValueError):
        known = replace(known, logprobs=None if packed is None else unpack_beside(packed, row["logprobs"]))
    with suppress(ValueError):
        known = replace(known, entropies=None if entropies is None else unpack_entropies(entropies))
    return known
