"""What a run's judge has said, and what it has cost so far: a resumed run asks for nothing twice.

It knows keys and texts; what a verdict means is in `agentgrpo.judge`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agentgrpo.errors import RunError
from agentgrpo.store.redact import redact_text
from agentgrpo.types import JsonObject

_TABLES = """
CREATE TABLE IF NOT EXISTS verdicts (key TEXT PRIMARY KEY, answer TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS spent (
    id INTEGER PRIMARY KEY CHECK (id = 1), calls INTEGER NOT NULL, tokens INTEGER NOT NULL
);
INSERT OR IGNORE INTO spent VALUES (1, 0, 0);
"""


class VerdictStore:
    """A file of verdicts by key. Every change is in the file when the method returns.

    Known secrets are taken out of the answers, as of everything a run stores.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with self._writing():
            self._db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")  # a power cut may cost the last verdicts, a kill none
            self._db.executescript(_TABLES)

    def get(self, key: str) -> str | None:
        """Return the answer kept under a key, or None."""
        row = self._db.execute("SELECT answer FROM verdicts WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def put(self, key: str, answer: str) -> None:
        """Keep an answer.

        Raises:
            RunError: the file cannot be written.
        """
        text = redact_text(answer).encode("utf-8", "replace").decode()
        with self._writing():
            self._db.execute("INSERT OR REPLACE INTO verdicts VALUES (?, ?)", (key, text))

    def spend(self, *, calls: int = 0, tokens: int = 0) -> None:
        """Count what was paid.

        Raises:
            RunError: the file cannot be written.
        """
        with self._writing():
            self._db.execute("UPDATE spent SET calls = calls + ?, tokens = tokens + ?", (calls, tokens))

    def spent(self) -> tuple[int, int]:
        """Return the calls and tokens paid so far, over all of the run's processes."""
        calls, tokens = self._db.execute("SELECT calls, tokens FROM spent").fetchone()
        return int(calls), int(tokens)

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        self._db.close()

    def __enter__(self) -> VerdictStore:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise RunError(
                f"verdicts cannot be written to '{self.path}': {error}. Free space or fix the file (without it the "
                "judge is asked again), then resume the run."
            ) from error


def judge_costs(path: Path) -> JsonObject | None:
    """Return what the judge of a run has cost, for its record; None when there was no judge."""
    if not path.is_file():
        return None
    try:
        with VerdictStore(path) as store:
            calls, tokens = store.spent()
    except (RunError, sqlite3.Error) as error:
        return {"problem": str(error)}
    return {"calls": calls, "tokens": tokens}
