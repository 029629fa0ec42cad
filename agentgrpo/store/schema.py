"""The episode file: opening it, its version, and how an older file is brought up to date.

It knows nothing of trajectories: the tables are in `tables`, what goes into them is decided by `codec` and `episodes`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from agentgrpo.errors import RunError, UserError
from agentgrpo.store.codec import tools_of
from agentgrpo.store.tables import MIGRATIONS, Migration

BUSY_SECONDS = 30.0


def version_of(connection: sqlite3.Connection) -> int:
    """Return the schema version of a file; 0 for an empty one."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def is_full_text(connection: sqlite3.Connection) -> bool:
    """Return whether this file's texts are in a full-text index."""
    row = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'texts'").fetchone()
    return row is not None and "fts5" in row[0]


def migrate(connection: sqlite3.Connection, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Bring a file to the newest version: each step is one transaction, whole or not at all.

    Raises:
        UserError: the file was written by a newer agentgrpo.
    """
    while (version := check_version(connection, migrations)) < len(migrations):
        connection.execute("BEGIN IMMEDIATE")
        try:
            # Asked again inside the transaction: another process may have migrated meanwhile.
            if version_of(connection) == version:
                connection.create_function("tools_of", 1, tools_of, deterministic=True)
                for statement in migrations[version]:
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {version + 1}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:  # a full disk has ended it already
                connection.execute("ROLLBACK")
            raise


def check_version(connection: sqlite3.Connection, migrations: Sequence[Migration] = MIGRATIONS) -> int:
    """Return the version of a file.

    Raises:
        UserError: it is newer than this code.
    """
    version = version_of(connection)
    if version > len(migrations):
        raise UserError(
            f"the episodes were written by a newer agentgrpo (schema version {version}, this one reads up to "
            f"{len(migrations)}): upgrade agentgrpo to open this run."
        )
    return version


def connect(path: Path) -> sqlite3.Connection:
    """Open a file for writing, creating or migrating it.

    WAL lets readers work while a run writes. synchronous=FULL makes a commit survive a power cut as well as a kill
    (NORMAL only the kill): one fsync per batch of episodes, some milliseconds, next to seconds of generation.
    """
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        migrate(connection)
    except sqlite3.OperationalError as error:
        connection.close()
        raise RunError(
            f"episodes cannot be written to '{path}': {error}. Free space or fix the folder, then go on."
        ) from error
    except sqlite3.DatabaseError as error:
        connection.close()
        raise UserError(f"'{path}' cannot be opened as an episode file: {error}. Use another run folder.") from error
    except BaseException:
        connection.close()
        raise
    return connection


def connect_readonly(path: Path) -> sqlite3.Connection:
    """Open a file for reading; an older file is migrated first.

    Raises:
        UserError: there is no such file, it holds no episodes, or it is newer than this code.
    """
    if not path.is_file():
        raise UserError(f"no episodes at '{path}': expected the episodes.sqlite of a run.")
    try:
        connection = _open_readonly(path)
    except sqlite3.DatabaseError as error:
        raise UserError(f"'{path}' cannot be read as an episode file: {error}.") from error
    try:
        version = check_version(connection)
        if version == 0:
            raise UserError(f"'{path}' holds no episodes: the run has only just started, or this is another file.")
        if any(MIGRATIONS[version:]):  # a step without statements changes nothing for a reader
            connect(path).close()
    except BaseException:
        connection.close()
        raise
    connection.row_factory = sqlite3.Row
    return connection


def _open_readonly(path: Path) -> sqlite3.Connection:
    uri = path.resolve().as_uri()
    connection = sqlite3.connect(f"{uri}?mode=ro", timeout=BUSY_SECONDS, uri=True, check_same_thread=False)
    try:
        version_of(connection)
    except sqlite3.OperationalError:
        # A WAL file on read-only media has nowhere to put its index; nobody can be writing there either.
        connection.close()
        return sqlite3.connect(f"{uri}?immutable=1", uri=True, check_same_thread=False)
    except sqlite3.DatabaseError:
        connection.close()
        raise
    return connection
