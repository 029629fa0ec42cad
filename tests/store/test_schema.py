from __future__ import annotations

import json
import shutil
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from agentgrpo.errors import UserError
from agentgrpo.store import EpisodeFilter, EpisodeReader, EpisodeStore, schema
from agentgrpo.store.codec import decode_record, encode
from agentgrpo.store.episodes import forget_after
from agentgrpo.store.schema import connect, migrate, version_of
from agentgrpo.store.tables import MIGRATIONS
from agentgrpo.types import Parent, Trajectory, Turn
from tests.store.strategies import make_key, make_trajectory

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
    monkeypatch.setattr(schema.check_version, "__defaults__", ((*MIGRATIONS, ("CREATE TABLE later (a)",)),))
    connection = schema.connect_readonly(path)
    assert version_of(connection) == len(MIGRATIONS) + 1
    assert connection.execute("SELECT count(*) FROM later").fetchone()[0] == 0
    connection.close()


def test_episodes_from_before_forks_have_no_parent_and_take_forks(tmp_path: Path) -> None:
    path, trajectory = tmp_path / "episodes.sqlite", make_trajectory()
    old = sqlite3.connect(path, isolation_level=None)
    migrate(old, MIGRATIONS[:1])
    key, payload = trajectory.key, encode(trajectory)
    record = decode_record(payload.record)
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


def _sums(path: Path) -> list[list[tuple[object, ...]]]:
    with closing(sqlite3.connect(path)) as db:
        facets = db.execute("SELECT * FROM facets WHERE episodes > 0 ORDER BY 1, 2, 3, 4").fetchall()
        tools = """SELECT n.name, t.episode, t.calls, t.errors FROM episode_tools t JOIN names n ON n.id = t.tool
            ORDER BY 1, 2"""
        names = db.execute("SELECT kind, name FROM names ORDER BY 1, 2").fetchall()
        return [facets, db.execute(tools).fetchall(), names]


def _episodes() -> list[Trajectory]:
    rewards = [None, 0.0, 1.0, 1.0]
    keys = [make_key(step, f"shop-{step}", sample) for step in range(3) for sample in range(4)]
    known = [make_trajectory(key, reward=rewards[key.sample], env_id=f"env-{key.step % 2}") for key in keys]
    call = {"id": "a", "name": "made up", "arguments": {}}
    answer = {"role": "tool", "tool_call_id": "a", "content": "unknown tool", "is_error": True}
    turn = Turn(action={"content": "", "tool_calls": [call]}, messages=(answer,), reward=0.0)
    return [*known, make_trajectory(make_key(9), turns=(turn,))]


def test_a_file_without_sums_gets_the_sums_a_new_one_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new, old = tmp_path / "new.sqlite", tmp_path / "old.sqlite"
    with EpisodeStore(new) as store:
        store.add_sync(_episodes())
    shutil.copy(new, old)
    with closing(sqlite3.connect(old, isolation_level=None)) as db:
        triggers = "SELECT name FROM sqlite_master WHERE type = 'trigger' AND sql LIKE '%facets%'"
        for (name,) in db.execute(triggers).fetchall():
            db.execute(f"DROP TRIGGER {name}")
        for table in ("facets", "episode_tools", "names"):
            db.execute(f"DROP TABLE {table}")
        db.execute("ALTER TABLE payloads DROP COLUMN entropies")
        db.execute("PRAGMA user_version = 2")
    EpisodeReader(old).close()
    assert _sums(old) == _sums(new)
    with closing(sqlite3.connect(old)) as one, closing(sqlite3.connect(new)) as other:
        sql = "SELECT type, name, sql FROM sqlite_master ORDER BY 1, 2"
        assert one.execute(sql).fetchall() == other.execute(sql).fetchall()


def test_sums_follow_episodes_that_are_replaced_or_removed(tmp_path: Path) -> None:
    path, whole = tmp_path / "episodes.sqlite", _episodes()
    with EpisodeStore(path) as store:
        store.add_sync(whole)
        before = _sums(path)
        store.add_sync([replace(t, reward=0.25, turns=t.turns[1:]) for t in whole])
        assert _sums(path)[0] != before[0]
        store.add_sync(whole)
        assert _sums(path)[0] == before[0]
        assert [row[0] for row in _sums(path)[1]].count("?") == 1
    forget_after(path, -1)
    assert _sums(path)[:2] == [[], []]
