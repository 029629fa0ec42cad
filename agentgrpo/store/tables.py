"""The tables of an episode file, as SQL, and the steps that brought them there.

It knows SQL and the one function of Python that the second step needs; connections are in `schema`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import TypeAlias

Migration: TypeAlias = Sequence[str]  # SQL statements, run in one transaction


def has_fts5() -> bool:
    """Return whether this Python's SQLite has full-text search."""
    connection = sqlite3.connect(":memory:")
    try:
        return bool(connection.execute("SELECT sqlite_compileoption_used('ENABLE_FTS5')").fetchone()[0])
    finally:
        connection.close()


# Contentless: the texts are in the records already. A replaced episode's entry stays and does no harm: its id is gone.
FTS_TABLE = "CREATE VIRTUAL TABLE texts USING fts5(text, content='', tokenize='unicode61', columnsize=0)"
# Fewer, larger merges of the index: a quarter less to do for a text, and queries stay far below a millisecond.
FTS_MERGES = "INSERT INTO texts (texts, rank) VALUES ('automerge', 16)"
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
    record BLOB NOT NULL,      -- JSON, compressed: everything but the token arrays
    token_ids BLOB NOT NULL,   -- int32, compressed
    logprobs BLOB NOT NULL,    -- int32, compressed: multiples of 2**-16
    learner_logprobs BLOB      -- what they differ by from `logprobs`, with which alone they can be read
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

# What a filter names by a part of it: environments and tools. A handful of rows, so that looking through them is free.
_NAMES = "CREATE TABLE names (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, name TEXT NOT NULL, UNIQUE (kind, name))"

_TOOLS = """
CREATE TABLE episode_tools (
    tool INTEGER NOT NULL REFERENCES names (id),
    episode INTEGER NOT NULL,
    calls INTEGER NOT NULL,
    errors INTEGER NOT NULL,
    PRIMARY KEY (tool, episode)
) WITHOUT ROWID"""

# Sums of a step's episodes apart by what they have in common: how they ended, what they called, which kind of task
# they were. `errors` counts failed calls of the tool, or of all tools.
_FACETS = """
CREATE TABLE facets (
    phase TEXT NOT NULL,
    step INTEGER NOT NULL,
    facet TEXT NOT NULL,       -- stop, env, family, tool
    value TEXT NOT NULL,
    episodes INTEGER NOT NULL DEFAULT 0,
    scored INTEGER NOT NULL DEFAULT 0,
    reward REAL NOT NULL DEFAULT 0,
    successes INTEGER NOT NULL DEFAULT 0,
    calls INTEGER NOT NULL DEFAULT 0,
    errors INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (phase, step, facet, value)
) WITHOUT ROWID"""

_FACET_SUMS = ("episodes", "scored", "reward", "successes", "calls", "errors")


def _family(row: str) -> str:
    """Return the task without its number: `heldout-refund_item-003` is of the family `heldout-refund_item`."""
    return f"rtrim(rtrim({row}.task_id, '0123456789'), '-_/.:# ')"


def _facet_values(row: str) -> dict[str, str]:
    stop = f"{row}.stop_reason || CASE WHEN {row}.boundary IS NULL THEN '' ELSE ':' || {row}.boundary END"
    return {"stop": stop, "env": f"{row}.env_id", "family": _family(row)}


def _amounts(row: str, *, calls: str | None = None, errors: str | None = None) -> str:
    known = (f"({row}.reward IS NOT NULL)", f"ifnull({row}.reward, 0)", f"ifnull({row}.success, 0)")
    return ", ".join(("1", *known, calls or f"{row}.tool_calls", errors or f"{row}.tool_errors"))


def _add_to_facets(select: str, sign: str) -> str:
    """Return the statement that adds (or takes) what a query finds to (or from) the sums."""
    names = ", ".join(_FACET_SUMS)
    changes = ", ".join(f"{name} = {name} {sign} excluded.{name}" for name in _FACET_SUMS)
    return f"""INSERT INTO facets (phase, step, facet, value, {names}) {select}
        ON CONFLICT (phase, step, facet, value) DO UPDATE SET {changes};"""


def _count_facets(row: str, sign: str) -> str:
    values = _facet_values(row).items()
    amounts = _amounts(row)
    rows = ", ".join(f"({row}.phase, {row}.step, '{facet}', {value}, {amounts})" for facet, value in values)
    return _add_to_facets(f"VALUES {rows}", sign)


def _count_tool(row: str, sign: str) -> str:
    select = f"""SELECT e.phase, e.step, 'tool', n.name, {_amounts("e", calls=f"{row}.calls", errors=f"{row}.errors")}
        FROM episodes e, names n WHERE e.id = {row}.episode AND n.id = {row}.tool"""
    return _add_to_facets(select, sign)


_FACET_TRIGGERS = (
    f"""CREATE TRIGGER episode_added_to_facets AFTER INSERT ON episodes BEGIN
        INSERT OR IGNORE INTO names (kind, name) VALUES ('env', new.env_id);
        {_count_facets("new", "+")}
    END""",
    f"CREATE TRIGGER tool_added AFTER INSERT ON episode_tools BEGIN {_count_tool('new', '+')} END",
    f"CREATE TRIGGER tool_removed BEFORE DELETE ON episode_tools BEGIN {_count_tool('old', '-')} END",
    # Before, not after: a tool's sums need the episode's step, so its rows go while the episode is still there.
    f"""CREATE TRIGGER episode_removed_from_facets BEFORE DELETE ON episodes BEGIN
        {_count_facets("old", "-")}
        DELETE FROM episode_tools
        WHERE tool IN (SELECT id FROM names WHERE kind = 'tool') AND episode = old.id;
    END""",
)

# For files that are older than their tables; the triggers have not been made yet.
_FILL_FACETS = tuple(
    f"""INSERT INTO facets (phase, step, facet, value, {", ".join(_FACET_SUMS)})
        SELECT phase, step, '{facet}', {value}, count(*), count(reward), total(reward), ifnull(sum(success), 0),
        sum(tool_calls), sum(tool_errors) FROM episodes e GROUP BY phase, step, 4"""
    for facet, value in _facet_values("e").items()
)
# Read once, into a table of its own: taking a record apart is what costs.
_FILL_TOOLS = (
    "INSERT INTO names (kind, name) SELECT DISTINCT 'env', env_id FROM episodes ORDER BY 2",
    """CREATE TABLE uses AS SELECT p.id AS episode, json_extract(u.value, '$[0]') AS tool,
        json_extract(u.value, '$[1]') AS calls, json_extract(u.value, '$[2]') AS errors
        FROM payloads p, json_each(tools_of(p.record)) u""",
    "INSERT INTO names (kind, name) SELECT DISTINCT 'tool', tool FROM uses",
    """INSERT INTO episode_tools (tool, episode, calls, errors) SELECT n.id, u.episode, u.calls, u.errors
        FROM uses u JOIN names n ON n.kind = 'tool' AND n.name = u.tool""",
    "DROP TABLE uses",
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
        *((FTS_TABLE, FTS_MERGES) if has_fts5() else (PLAIN_TABLE,)),
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
    (
        _NAMES,
        _TOOLS,
        _FACETS,
        *_FILL_FACETS,
        _FACET_TRIGGERS[1],  # so that the tools of older episodes are counted as they are filled in
        *_FILL_TOOLS,
        *(trigger for trigger in _FACET_TRIGGERS if trigger != _FACET_TRIGGERS[1]),
    ),
    ("ALTER TABLE payloads ADD COLUMN entropies BLOB",),  # of the trained tokens, as the learner's logprobs
    (),  # from here on written with zstd, which older code cannot read; reading an older file leaves it as it is
)
