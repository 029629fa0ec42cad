"""Scores that were given to episodes after they had ended: kept beside the score they were trained with, never over it.

It knows nothing of what scores them.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from agentgrpo.errors import RunError
from agentgrpo.store.episodes import finite
from agentgrpo.store.redact import redact, redact_text
from agentgrpo.store.schema import connect, connect_readonly


@dataclass(frozen=True, slots=True, kw_only=True)
class Rescore:
    """A reward that scored a run's episodes anew. `id` is None until it is written."""

    reward: str  # what names it
    source_sha256: str | None
    weights: Mapping[str, float]
    made_at: float  # seconds since the epoch
    id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What a reward made of one episode; `reward` is None when it could not score it, and `problem` says why."""

    episode: int  # its row id
    reward: float | None
    success: bool | None
    terms: Mapping[str, float] = field(default_factory=dict)
    problem: str | None = None


def write_scores(path: str | Path, rescore: Rescore, scores: Sequence[Score]) -> int:
    """Write the scores of a reward, all or none, and return the number they are kept under.

    Episodes that were replaced meanwhile are left out.

    Raises:
        RunError: the file cannot be written.
    """
    try:
        with closing(connect(Path(path))) as connection:
            connection.execute("BEGIN IMMEDIATE")
            cursor = connection.execute(
                "INSERT INTO rescores (reward, source_sha256, weights, made_at) VALUES (?, ?, ?, ?)",
                (rescore.reward, rescore.source_sha256, json.dumps(dict(rescore.weights)), rescore.made_at),
            )
            number = cursor.lastrowid
            # From a SELECT, so that an episode that is gone makes no row instead of an error.
            connection.executemany(
                "INSERT INTO scores SELECT id, ?, ?, ?, ?, ? FROM episodes WHERE id = ?",
                [(number, *_values(score), score.episode) for score in scores],
            )
            connection.execute("COMMIT")
    except sqlite3.Error as error:
        raise RunError(f"scores cannot be written to '{path}': {error}. Free space or fix the folder.") from error
    assert number is not None
    return number


def rescores_of(path: str | Path) -> list[Rescore]:
    """Return all rewards that scored a run's episodes anew, the oldest first."""
    with closing(connect_readonly(Path(path))) as connection:
        rows = connection.execute("SELECT id, reward, source_sha256, weights, made_at FROM rescores ORDER BY id")
        return [_rescore(row) for row in rows]


def scores_of(path: str | Path, episode: int) -> list[tuple[Rescore, Score]]:
    """Return every score an episode was given after it had ended, the oldest first."""
    sql = """SELECT rescores.*, scores.reward AS score, success, terms, problem
    FROM scores JOIN rescores ON rescores.id = scores.rescore WHERE episode = ? ORDER BY rescore"""
    with closing(connect_readonly(Path(path))) as connection:
        rows = connection.execute(sql, (episode,)).fetchall()
    return [(_rescore(row), _score(row, episode)) for row in rows]


def _values(score: Score) -> tuple[float | None, int | None, str, str | None]:
    success = None if score.success is None else int(score.success)
    problem = None if score.problem is None else redact_text(score.problem).encode("utf-8", "replace").decode()
    return finite(score.reward), success, json.dumps(redact(dict(score.terms))), problem


def _rescore(row: sqlite3.Row) -> Rescore:
    return Rescore(
        id=row["id"],
        reward=row["reward"],
        source_sha256=row["source_sha256"],
        weights=json.loads(row["weights"]),
        made_at=row["made_at"],
    )


def _score(row: sqlite3.Row, episode: int) -> Score:
    return Score(
        episode=episode,
        reward=row["score"],
        success=None if row["success"] is None else bool(row["success"]),
        terms=json.loads(row["terms"]),
        problem=row["problem"],
    )
