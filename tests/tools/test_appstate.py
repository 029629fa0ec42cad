from __future__ import annotations

import sqlite3

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentgrpo.errors import ToolError
from agentgrpo.tools.appstate import AppState, patch


class Pets(AppState):
    schema = """
    CREATE TABLE pets (id TEXT PRIMARY KEY, name TEXT NOT NULL, age INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE toys (id TEXT PRIMARY KEY, owner TEXT NOT NULL) WITHOUT ROWID;
    """


def pets() -> Pets:
    app = Pets()
    app.insert("pets", [{"id": "a", "name": "Rex", "age": 3}, {"id": "b", "name": "Tom", "age": 5}])
    app.insert("toys", [{"id": "ball", "owner": "a"}])
    return Pets(app.snapshot())


def test_state_lists_rows_by_id() -> None:
    assert pets().state() == {
        "pets": {"a": {"name": "Rex", "age": 3}, "b": {"name": "Tom", "age": 5}},
        "toys": {"ball": {"owner": "a"}},
    }


def test_diff_names_what_changed_and_only_once() -> None:
    app = pets()
    app.change("UPDATE pets SET age = 4 WHERE id = 'a'")
    app.change("DELETE FROM toys")
    app.insert("pets", [{"id": "c", "name": "Mia", "age": 1}])
    assert app.state_diff() == [
        {"op": "replace", "path": "/pets/a/age", "old": 3, "value": 4},
        {"op": "add", "path": "/pets/c", "value": {"name": "Mia", "age": 1}},
        {"op": "remove", "path": "/toys/ball"},
    ]
    assert app.state_diff() == []


def test_a_change_taken_back_is_no_change() -> None:
    app = pets()
    before = app.state_hash()
    app.change("UPDATE pets SET age = 4 WHERE id = 'a'")
    assert app.state_hash() != before
    app.change("UPDATE pets SET age = 3 WHERE id = 'a'")
    assert app.state_hash() == before
    assert app.state_diff() == []


def test_paths_escape_slash_and_tilde() -> None:
    app = pets()
    app.insert("toys", [{"id": "a/b~c", "owner": "a"}])
    assert app.state_diff()[0]["path"] == "/toys/a~1b~0c"


def test_hash_depends_on_content_not_on_history() -> None:
    straight, detour = pets(), pets()
    straight.change("UPDATE pets SET name = 'Max' WHERE id = 'a'")
    detour.change("DELETE FROM pets WHERE id = 'a'")
    detour.insert("pets", [{"id": "a", "name": "Max", "age": 3}])
    assert straight.state_hash() == detour.state_hash()


def test_hash_tells_tables_apart() -> None:
    class Twins(AppState):
        schema = "CREATE TABLE x (id TEXT PRIMARY KEY); CREATE TABLE y (id TEXT PRIMARY KEY);"

    left, right = Twins(), Twins()
    left.insert("x", [{"id": "1"}])
    right.insert("y", [{"id": "1"}])
    assert left.state_hash() != right.state_hash()


def test_restore_forgets_what_happened_and_goes_on_logging() -> None:
    app = pets()
    saved, digest = app.snapshot(), app.state_hash()
    app.change("DELETE FROM pets")
    app.restore(saved)
    assert (app.state_hash(), app.state_diff()) == (digest, [])
    app.change("DELETE FROM toys")
    assert app.state_diff() == [{"op": "remove", "path": "/toys/ball"}]


def test_a_state_stays_exact_over_many_restores() -> None:
    app = pets()
    saved = [(app.snapshot(), app.state())]
    app.insert("pets", [{"id": f"p{n}", "name": "Rex" * 100, "age": n} for n in range(50)])  # some more pages
    saved.append((app.snapshot(), app.state()))
    for snapshot, state in saved * 3:
        app.change("DELETE FROM toys")
        app.restore(snapshot)
        assert (app.state(), app.state_diff(), app.state_hash()) == (state, [], app.content_hash())
        app.change("UPDATE pets SET age = 7 WHERE id = 'b'")
        assert app.state_diff() == [{"op": "replace", "path": "/pets/b/age", "old": 5, "value": 7}]
        assert app.state_hash() == app.content_hash()


def test_a_snapshot_taken_in_mid_change_has_its_own_hash() -> None:
    app = pets()
    app.change("UPDATE pets SET age = 9 WHERE id = 'a'")
    fork = app.fork()
    assert fork.state_hash() == fork.content_hash() == app.state_hash()
    assert [operation["value"] for operation in app.state_diff()] == [9]  # a snapshot takes no changes away
    assert fork.state_diff() == []


def test_a_snapshot_does_not_hold_the_room_of_what_is_gone() -> None:
    app = pets()
    small, state, known = len(app.snapshot()), app.state(), app.state_hash()
    for text in ("x" * 300_000, "Rex"):
        app.change("UPDATE pets SET name = ? WHERE id = 'b'", text)
    app.change("UPDATE pets SET name = ? WHERE id = 'b'", state["pets"]["b"]["name"])
    assert len(app.snapshot()) < 2 * small
    assert (app.state(), app.state_hash(), app.content_hash()) == (state, known, known)
    assert app.fork().state_hash() == known
    app.change("UPDATE pets SET age = 7 WHERE id = 'b'")
    assert [operation["value"] for operation in app.state_diff()] == [7]


def test_what_is_restored_gives_the_same_snapshot() -> None:
    app = pets()
    app.change("UPDATE pets SET age = 9 WHERE id = 'a'")
    snapshot = app.snapshot()
    assert app.snapshot() == snapshot
    fork = pets()
    fork.restore(snapshot)
    assert fork.snapshot() == snapshot


def test_fork_is_exact_and_independent() -> None:
    app = pets()
    app.change("UPDATE pets SET age = 9 WHERE id = 'a'")
    fork = app.fork()
    assert (fork.state(), fork.state_hash(), fork.snapshot()) == (app.state(), app.state_hash(), app.snapshot())
    fork.change("DELETE FROM pets")
    assert len(app.state()["pets"]) == 2


def test_a_row_that_is_replaced_is_told_of() -> None:
    for sql, told in (
        ("REPLACE INTO pets VALUES ('a', 'Max', 3)", [("replace", "/pets/a/name")]),
        ("REPLACE INTO tags VALUES ('t2', 'red')", [("remove", "/tags/t1"), ("add", "/tags/t2")]),  # UNIQUE
        ("UPDATE OR REPLACE pets SET id = 'b' WHERE id = 'a'", None),
    ):
        app = Tagged()
        app.insert("pets", [{"id": "a", "name": "Rex", "age": 3}, {"id": "b", "name": "Tom", "age": 5}])
        app.insert("tags", [{"id": "t1", "colour": "red"}])
        app = Tagged(app.snapshot())
        before = app.state()
        app.change(sql)
        assert app.state_hash() == app.content_hash() == app.fork().content_hash()
        operations = app.state_diff()
        assert operations == patch(before, app.state()) != []
        assert told is None or [(one["op"], one["path"]) for one in operations] == told


class Tagged(AppState):
    schema = Pets.schema + "CREATE TABLE tags (id TEXT PRIMARY KEY, colour TEXT NOT NULL UNIQUE);"


def test_a_row_that_gets_another_id_is_one_gone_and_one_new() -> None:
    app = pets()
    before = app.state()
    app.change("UPDATE pets SET id = 'z' WHERE id = 'a'")
    assert app.state_hash() == app.content_hash()
    assert app.state_diff() == patch(before, app.state())
    assert [one["path"] for one in patch(before, app.state())] == ["/pets/a", "/pets/z"]
    for key in ("a", "y", "z"):  # there and back
        app.change("UPDATE pets SET id = ? WHERE name = 'Rex'", key)
    assert app.state_diff() == []


def test_a_number_no_row_can_hold_is_told_to_the_model() -> None:
    app = pets()
    for act in (
        lambda: app.rows("SELECT * FROM pets WHERE age = ?", 2**63),
        lambda: app.change("UPDATE pets SET age = ?", -(2**63) - 1),
        lambda: app.insert("pets", [{"id": "c", "name": "Mia", "age": 10**30}]),
    ):
        with pytest.raises(ToolError, match="more than 64 bits"):
            act()
    assert app.state() == pets().state()
    app.change("UPDATE pets SET age = ? WHERE id = 'a'", 2**63 - 1)
    assert app.state_diff()[0]["value"] == 2**63 - 1


def test_text_no_row_can_hold_finds_nothing() -> None:
    assert pets().rows("SELECT * FROM pets WHERE name = ?", "\ud800") == []


def test_close_frees_the_database() -> None:
    app = pets()
    app.close()
    with pytest.raises(sqlite3.ProgrammingError):
        app.state()


CHANGES = st.lists(
    st.tuples(
        st.sampled_from(("put", "set", "drop", "look", "replace", "rename")), st.sampled_from("abcd"), st.integers(0, 3)
    ),
    max_size=15,
)


@settings(max_examples=60, deadline=None)
@given(CHANGES)
def test_incremental_hash_and_diff_equal_the_full_ones(changes: list[tuple[str, str, int]]) -> None:
    app = pets()
    before = app.state()
    for kind, key, age in changes:
        if kind == "put":
            app.change("INSERT OR IGNORE INTO pets VALUES (?, 'New', ?)", key, age)
        elif kind == "set":
            app.change("UPDATE pets SET age = ? WHERE id = ?", age, key)
        elif kind == "replace":
            app.change("REPLACE INTO pets VALUES (?, 'Other', ?)", key, age)
        elif kind == "rename":
            app.change("UPDATE OR REPLACE pets SET id = ? WHERE id = ?", key, "abcd"[age])
        elif kind == "drop":
            app.change("DELETE FROM pets WHERE id = ?", key)
        else:
            assert app.state_diff() == patch(before, app.state())
            before = app.state()
        assert app.state_hash() == app.content_hash()
    assert app.state_diff() == patch(before, app.state())
