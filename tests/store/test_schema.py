from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentgrpo.errors import UserError
from agentgrpo.store import EpisodeReader, EpisodeStore, schema
from agentgrpo.store.schema import MIGRATIONS, connect, migrate, version_of

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
