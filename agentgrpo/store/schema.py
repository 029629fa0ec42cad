"""The episode file: its tables, its version, and how an older file is brought up to date.

It knows SQL and nothing of trajectories: what goes into the columns is decided by `codec` and `episodes`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from agentgrpo.errors import RunError, UserError

Migration: TypeAlias = Sequence[str]  # SQL statements, run in one transaction

BUSY_SECONDS = 30.0


def has_fts5() -> bool:
    """Return whether this Python's SQLite has full-text search."""
    connection = sqlite3.connect(":memory:")
    try:
        return bool(connection.execute("SELECT sqlite_compileoption_used('ENABLE_FTS5')").fetchone()[0])
    finally:
        connection.close()


# Contentless: the texts are in the records already. A replaced episode's entry stays and does no harm: its id is gone.
FTS_TABLE = "CREATE VIRTUAL TABLE texts USING fts5(text, content='', tokenize='unicode61')"
PLAIN_TABLE = "CREATE TABLE texts (rowid INTEGER PRIMARY KEY, text TEXT NOT NULL)"

_EPISODES = """
CREATE TABLE episodes (
    id INTEGER PRIMARY KEY AUTOINCREMENT,  -- order of arrival, never used twice: a cursor for whoever follows along
    phase TEXT NOT NULL,
    step INTEGER NOT NULL,
    task_id TEXT NOT NULL,
    sample INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    env_id TEXT NOT NULL,
    policy TEXT NOT NULL,
    policy_version INTEGER NOT NULL,
    reward REAL,                           -- NULL: not scored, or not finite
    success INTEGER,
    turns INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    sampled_tokens INTEGER NOT NULL,
    tool_calls INTEGER NOT NULL,
    tool_errors INTEGER NOT NULL,
    stop_reason TEXT NOT NULL,
    boundary TEXT,
    cause TEXT,
    forks INTEGER NOT NULL,
    started_at REAL NOT NULL,
    seconds REAL NOT NULL,
    advantage REAL,
    filter_reason TEXT,
    UNIQUE (phase, step, task_id, sample, attempt)
)"""

# Apart from the index columns, so that scanning those reads little.
_PAYLOADS = """
CREATE TABLE payloads (
    id INTEGER PRIMARY KEY REFERENCES episodes (id) ON DELETE CASCADE,
    record BLOB NOT NULL,      -- zlib of JSON: everything but the token arrays
    token_ids BLOB NOT NULL,   -- zlib of int32
    logprobs BLOB NOT NULL,    -- zlib of int32, multiples of 2**-16
    learner_logprobs BLOB
)"""

_SUMS = ("scored", "reward", "successes", "turns", "sampled_tokens", "tool_calls", "tool_errors", "failed", "filtered")
_STEPS = f"""
CREATE TABLE steps (
    phase TEXT NOT NULL,
    step INTEGER NOT NULL,
    episodes INTEGER NOT NULL DEFAULT 0,
    {", ".join(f"{name} {'REAL' if name == 'reward' else 'INTEGER'} NOT NULL DEFAULT 0" for name in _SUMS)},
    PRIMARY KEY (phase, step)
) WITHOUT ROWID"""


# Which groups a train step took, and what came of them: what repeats the step from the record alone.
_TRAIN_STEPS = """
CREATE TABLE train_steps (
    step INTEGER PRIMARY KEY,
    groups TEXT NOT NULL,         -- JSON [[step they were drawn for, task id, scored episodes], ...], in order
    adapter_sha256 TEXT NOT NULL  -- after it
)"""

# Scores that were given later stand beside the score an episode ended with.
_RESCORES = """
CREATE TABLE rescores (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    reward TEXT NOT NULL,         -- "module:function"
    source_sha256 TEXT,           -- of its code
    weights TEXT NOT NULL,        -- JSON
    made_at REAL NOT NULL
)"""
_SCORES = """
CREATE TABLE scores (
    episode INTEGER NOT NULL REFERENCES episodes (id) ON DELETE CASCADE,
    rescore INTEGER NOT NULL REFERENCES rescores (id) ON DELETE CASCADE,
    reward REAL,                  -- NULL: it could not be scored
    success INTEGER,
    terms TEXT NOT NULL,          -- JSON
    problem TEXT,
    PRIMARY KEY (episode, rescore)
) WITHOUT ROWID"""


def _count(row: str, sign: str) -> str:
    """Return the statements that add (or take) an episode to (or from) its step's sums."""
    terms = {
        "episodes": "1",
        "scored": f"({row}.reward IS NOT NULL)",
        "reward": f"ifnull({row}.reward, 0)",
        "successes": f"ifnull({row}.success, 0)",
        "failed": f"({row}.stop_reason = 'failed')",
        "filtered": f"({row}.filter_reason IS NOT NULL)",
    }
    terms |= {name: f"{row}.{name}" for name in _SUMS if name not in terms}
    changes = ", ".join(f"{name} = {name} {sign} {value}" for name, value in terms.items())
    return f"UPDATE steps SET {changes} WHERE phase = {row}.phase AND step = {row}.step;"


# Sums are kept by the database itself: no code path can forget them.
_TRIGGERS = (
    f"""CREATE TRIGGER episode_added AFTER INSERT ON episodes BEGIN
        INSERT OR IGNORE INTO steps (phase, step) VALUES (new.phase, new.step);
        {_count("new", "+")}
    END""",
    f"CREATE TRIGGER episode_removed AFTER DELETE ON episodes BEGIN {_count('old', '-')} END",
    f"""CREATE TRIGGER episode_filtered AFTER UPDATE OF filter_reason ON episodes BEGIN
        {_count("old", "-")}
        {_count("new", "+")}
    END""",
)

MIGRATIONS: tuple[Migration, ...] = (
    (
        _EPISODES,
        "CREATE INDEX episodes_by_reward ON episodes (reward, id)",
        "CREATE INDEX episodes_by_step ON episodes (step, id)",
        "CREATE INDEX episodes_by_task ON episodes (task_id, id)",
        "CREATE INDEX episodes_by_stop_reason ON episodes (stop_reason, id)",
        _PAYLOADS,
        _STEPS,
        *_TRIGGERS,
        FTS_TABLE if has_fts5() else PLAIN_TABLE,
    ),
    (
        "ALTER TABLE episodes ADD COLUMN parent INTEGER",  # of a fork: an episode's id; it may have been replaced since
        "ALTER TABLE episodes ADD COLUMN parent_turns INTEGER",  # how many of its turns were taken over
        "CREATE INDEX episodes_by_parent ON episodes (parent, parent_turns) WHERE parent IS NOT NULL",
        _TRAIN_STEPS,
        _RESCORES,
        _SCORES,
        "CREATE INDEX scores_by_rescore ON scores (rescore)",
    ),
)


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
        if version < len(MIGRATIONS):
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
