from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agentgrpo.errors import UserError
from agentgrpo.store import EpisodeFilter, EpisodeReader, EpisodeStore, schema
from agentgrpo.store.codec import encode
from agentgrpo.store.schema import MIGRATIONS, connect, migrate, version_of
from agentgrpo.types import Parent
from tests.store.strategies import make_trajectory

FAKE = (("CREATE TABLE t (a)", "INSERT INTO t VALUES (1)"), ("ALTER TABLE t ADD COLUMN b", "UPDATE t SET b = a + 1"))


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    yield connection
    connection.close()


def test_an_older_file_keeps_its_rows_and_gets_the_new_columns(db: sqlite3.Connection) -> None:
    migrate(db, FAKE[:1])
    assert (version_of(db), db.execute("SELECT * FROM t").fetchall()) == (1, [(1,)])
    migrate(db, FAKE)
    assert (version_of(db), db.execute("SELECT * FROM t").fetchall()) == (2, [(1, 2)])
    migrate(db, FAKE)
    assert db.execute("SELECT * FROM t").fetchall() == [(1, 2)]


def test_a_migration_that_fails_leaves_the_file_as_it_was(db: sqlite3.Connection) -> None:
    migrate(db, FAKE[:1])
    with pytest.raises(sqlite3.OperationalError):
        migrate(db, (FAKE[0], ("DELETE FROM t", "no sql")))
    assert (version_of(db), db.execute("SELECT * FROM t").fetchall()) == (1, [(1,)])


def test_a_newer_file_is_refused_by_writer_and_reader(tmp_path: Path) -> None:
    path = tmp_path / "episodes.sqlite"
    connection = connect(path)
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    connection.close()
    with pytest.raises(UserError, match=r"newer agentgrpo.*upgrade"):
        EpisodeStore(path)
    with pytest.raises(UserError, match=r"newer agentgrpo.*upgrade"):
        EpisodeReader(path)


def test_a_reader_migrates_an_older_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "episodes.sqlite"
    connect(path).close()
    monkeypatch.setattr(schema.migrate, "__defaults__", ((*MIGRATIONS, ("CREATE TABLE later (a)",)),))
    monkeypatch.setattr(schema, "MIGRATIONS", (*MIGRATIONS, ("CREATE TABLE later (a)",)))
    monkeypatch.setattr(schema.check_version, "__defaults__", (schema.MIGRATIONS,))
    connection = schema.connect_readonly(path)
    assert version_of(connection) == len(MIGRATIONS) + 1
    assert connection.execute("SELECT count(*) FROM later").fetchone()[0] == 0
    connection.close()


def test_episodes_from_before_forks_have_no_parent_and_take_forks(tmp_path: Path) -> None:
    path, trajectory = tmp_path / "episodes.sqlite", make_trajectory()
    old = sqlite3.connect(path, isolation_level=None)
    migrate(old, MIGRATIONS[:1])
    key, payload = trajectory.key, encode(trajectory)
    record = json.loads(zlib.decompress(payload.record))
    del record["parent"]
    old.execute(
        "INSERT INTO episodes VALUES (5, ?, ?, ?, 0, 0, 'shop', 'p', 0, 1, 1, 4, 15, 8, 3, 1, 'answered', NULL, NULL,"
        "0, 0, 0, NULL, NULL)",
        (key.phase, key.step, key.task_id),
    )
    values = (zlib.compress(json.dumps(record).encode()), payload.token_ids, payload.logprobs)
    old.execute("INSERT INTO payloads VALUES (5, ?, ?, ?, NULL)", values)
    old.close()
    with EpisodeReader(path) as reader:
        stored = reader.get(5)
        assert (stored.row.parent, stored.row.parent_turns, stored.trajectory) == (None, None, trajectory)
    fork = replace(trajectory, key=replace(key, phase="fork"), parent=Parent(episode=5, turns=2))
    with EpisodeStore(path) as store:
        store.add_sync([fork])
    with EpisodeReader(path) as reader:
        (row,) = reader.list(EpisodeFilter(parent=5))
        assert (row.id, row.phase, row.parent, row.parent_turns) == (6, "fork", 5, 2)
        assert reader.get("fork/3/shop-12/0").trajectory == fork


def test_other_files_are_refused_with_a_reason(tmp_path: Path) -> None:
    text, empty = tmp_path / "text.sqlite", tmp_path / "empty.sqlite"
    text.write_text("this is no database" * 100, encoding="utf-8")
    other = sqlite3.connect(empty)
    other.execute("CREATE TABLE t (a)")
    other.close()
    with pytest.raises(UserError, match="cannot be read as an episode file"):
        EpisodeReader(text)
    with pytest.raises(UserError, match="cannot be opened as an episode file"):
        EpisodeStore(text)
    with pytest.raises(UserError, match="holds no episodes"):
        EpisodeReader(empty)
    with pytest.raises(UserError, match="no episodes at"):
        EpisodeReader(tmp_path / "absent.sqlite")
