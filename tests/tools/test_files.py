from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentgrpo.errors import ToolError
from agentgrpo.tools.appstate import patch
from agentgrpo.tools.files import MAX_NODES, MAX_TEXT, MAX_TOTAL, FilesApp
from agentgrpo.types import Json
from tests.hostile_paths import commands, flaws


@pytest.fixture
def app() -> FilesApp:
    app = FilesApp()
    for folder in ("/docs", "/docs/old", "/work"):
        app.mkdir(folder)
    app.write("/docs/notes", "owner Ada\nitem lamp\n")
    app.write("/docs/plan", "owner Ben")
    app.write("/docs/old/notes", "owner Eva\nowner Ada")
    app.write("/docs/locked", "owner Ada")
    app.chmod("/docs/locked", "ro")
    return FilesApp(app.snapshot())


def refused(app: FilesApp, action: Callable[[], Json]) -> str:
    """Return why a command was refused, once it is sure that it changed nothing."""
    app.state_diff()  # of what was done before
    with pytest.raises(ToolError) as error:
        action()
    assert app.state_diff() == []
    return str(error.value)


def changed(app: FilesApp) -> dict[str, str]:
    """Return which paths were added, removed or changed since the last look."""
    return {op["path"].split("/")[2].replace("~1", "/"): op["op"] for op in app.state_diff()}


def test_ls_lists_names_in_order_and_marks_directories(app: FilesApp) -> None:
    assert app.ls("/") == app.ls("..") == app.ls("") == ["docs/", "work/"]
    assert app.ls("docs") == ["locked", "notes", "old/", "plan"]
    assert app.ls("/work/") == []
    assert "is a file" in refused(app, lambda: app.ls("/docs/plan"))
    assert "there is no /x" in refused(app, lambda: app.ls("/x"))


@pytest.mark.parametrize(
    ("path", "name", "found"),
    [
        ("/", "notes", ["/docs/notes", "/docs/old/notes"]),
        ("/docs/old", "notes", ["/docs/old/notes"]),
        ("/", "no*", ["/docs/notes", "/docs/old/notes"]),
        ("/", "*o*e*", ["/docs/locked", "/docs/notes", "/docs/old/notes"]),
        ("/", "*s", ["/docs", "/docs/notes", "/docs/old/notes"]),
        ("/", "**", ["/docs", "/docs/locked", "/docs/notes", "/docs/old", "/docs/old/notes", "/docs/plan", "/work"]),
        ("/", "o", []),
        ("/", "", []),
        ("/", "plan*plan", []),
        ("/", "?lan", []),
        ("/", "[p]lan", []),
    ],
)
def test_find_takes_names_and_stars(app: FilesApp, path: str, name: str, found: list[str]) -> None:
    assert app.find(path, name) == found


def test_find_takes_no_time_on_hostile_patterns(app: FilesApp) -> None:
    app.write("/docs/" + "a" * 60, "")
    assert app.find("/", "*a" * 29 + "*b") == []
    assert "at most 60" in refused(app, lambda: app.find("/", "*" * 10_000))


def test_grep_finds_plain_text_in_a_file_or_below_a_directory(app: FilesApp) -> None:
    assert app.grep("/docs/notes", "Ada") == [{"path": "/docs/notes", "line": "owner Ada"}]
    assert [match["path"] for match in app.grep("/", "Ada")] == ["/docs/locked", "/docs/notes", "/docs/old/notes"]
    assert app.grep("/", "own.r") == app.grep("/", "ada") == []
    assert "needs a text" in refused(app, lambda: app.grep("/", ""))


def test_a_file_is_lines(app: FilesApp) -> None:
    assert app.cat("/docs/notes") == ["owner Ada", "item lamp"]
    assert app.head("/docs/notes", 1) == ["owner Ada"]
    assert app.head("/docs/notes", 10**30) == app.cat("/docs/notes")
    assert app.wc("/docs/notes") == {"lines": 2, "words": 4}
    assert "at least 1" in refused(app, lambda: app.head("/docs/notes", 0))
    for command in (app.cat, app.wc):
        assert "is a directory" in refused(app, lambda command=command: command("/docs"))  # type: ignore[misc]


def test_write_makes_or_replaces_and_append_adds(app: FilesApp) -> None:
    assert app.write("/work/new", "a\nb\n") == {"path": "/work/new", "lines": 2}
    assert app.append("/work/new", "c") == {"path": "/work/new", "lines": 3}
    assert app.cat("/work/new") == ["a", "b", "c"]
    assert app.write("/work/new", "") == {"path": "/work/new", "lines": 0}
    assert app.append("/work/new", "d\n") == {"path": "/work/new", "lines": 1}
    assert app.cat("/work/new") == ["d"]
    assert changed(app) == {"/work/new": "add"}
    assert "there is no /nowhere" in refused(app, lambda: app.write("/nowhere/a", "x"))
    assert "is a file" in refused(app, lambda: app.write("/docs/plan/a", "x"))
    assert "is a directory" in refused(app, lambda: app.write("/", "x"))
    assert "there is no /work/a" in refused(app, lambda: app.append("/work/a", "x"))


@pytest.mark.parametrize("text", ["a\0b", "\ud800", "\x1b[2J", "a\rb", "\x7f"])
def test_a_file_holds_text_only(app: FilesApp, text: str) -> None:
    assert "control characters" in refused(app, lambda: app.write("/work/a", text))
    assert "control characters" in refused(app, lambda: app.append("/docs/plan", text))


def test_mkdir_needs_a_free_name_in_a_directory(app: FilesApp) -> None:
    assert app.mkdir("/work/a") == {"path": "/work/a"}
    assert changed(app) == {"/work/a": "add"}
    for path in ("/work/a", "/docs/plan", "/"):
        assert "is there already" in refused(app, lambda path=path: app.mkdir(path))  # type: ignore[misc]
    assert "there is no /x" in refused(app, lambda: app.mkdir("/x/y"))


def test_mv_moves_into_a_directory_or_renames(app: FilesApp) -> None:
    assert app.mv("/docs/plan", "/work") == {"path": "/work/plan"}
    assert changed(app) == {"/docs/plan": "remove", "/work/plan": "add"}
    assert app.mv("/work/plan", "/work/idea") == {"path": "/work/idea"}
    assert app.cat("/work/idea") == ["owner Ben"]
    assert app.mv("/docs/old", "/work/older") == {"path": "/work/older"}
    assert app.cat("/work/older/notes") == ["owner Eva", "owner Ada"]
    assert app.ls("/docs") == ["locked", "notes"]


@pytest.mark.parametrize("command", ["mv", "cp"])
def test_nothing_is_overwritten_or_put_into_itself(app: FilesApp, command: str) -> None:
    move: Callable[[str, str], Json] = getattr(app, command)
    assert "is there already" in refused(app, lambda: move("/docs/notes", "/docs/old"))
    assert "is there already" in refused(app, lambda: move("/docs/notes", "/docs/plan"))
    assert "itself" in refused(app, lambda: move("/docs/notes", "/docs/notes"))
    assert "itself" in refused(app, lambda: move("/docs/notes", "/docs"))
    assert "itself" in refused(app, lambda: move("/docs", "/docs/old"))
    assert "itself" in refused(app, lambda: move("/", "/work"))
    assert "there is no /nowhere" in refused(app, lambda: move("/docs/notes", "/nowhere/a"))
    assert "there is no /a" in refused(app, lambda: move("/a", "/work"))


def test_a_name_that_starts_alike_is_another(app: FilesApp) -> None:
    app.mkdir("/docs-old")
    app.write("/docs-old/a", "x")
    app.chmod("/docs/locked", "rw")
    app.mv("/docs", "/work")
    assert app.ls("/") == ["docs-old/", "work/"]
    assert app.cp("/work/docs", "/work/docs2") == {"path": "/work/docs2"}
    assert app.ls("/work") == ["docs/", "docs2/"]


def test_cp_copies_a_file_or_a_directory_writable(app: FilesApp) -> None:
    assert app.cp("/docs", "/work") == {"path": "/work/docs"}
    assert set(changed(app).values()) == {"add"}
    assert app.ls("/work/docs") == app.ls("/docs")
    assert app.append("/work/docs/locked", "x") == {"path": "/work/docs/locked", "lines": 2}
    assert app.cat("/docs/locked") == ["owner Ada"]


def test_rm_removes_files_and_empty_directories(app: FilesApp) -> None:
    assert app.rm("/docs/plan") == {"removed": "/docs/plan"}
    assert app.rm("/work") == {"removed": "/work"}
    assert changed(app) == {"/docs/plan": "remove", "/work": "remove"}
    for path in ("/docs", "/"):
        assert "empty directory" in refused(app, lambda path=path: app.rm(path))  # type: ignore[misc]
    assert "empty directory" in refused(empty := FilesApp(), lambda: empty.rm("/"))


def test_a_read_only_file_is_read_and_copied_only(app: FilesApp) -> None:
    for action in (
        lambda: app.write("/docs/locked", "x"),
        lambda: app.append("/docs/locked", "x"),
        lambda: app.rm("/docs/locked"),
        lambda: app.mv("/docs/locked", "/work"),
        lambda: app.mv("/docs", "/work"),
    ):
        assert "read-only" in refused(app, action)
    assert app.cat("/docs/locked") == ["owner Ada"]
    assert app.chmod("/docs/locked", "rw") == {"path": "/docs/locked", "mode": "rw"}
    assert app.rm("/docs/locked") == {"removed": "/docs/locked"}


def test_chmod_takes_two_modes_and_files_only(app: FilesApp) -> None:
    assert "one of rw, ro" in refused(app, lambda: app.chmod("/docs/plan", "777"))
    assert "is a directory" in refused(app, lambda: app.chmod("/docs", "ro"))


def test_nothing_gets_too_deep(app: FilesApp) -> None:
    deep = "/work"
    for _ in range(10):
        app.mkdir(deep := f"{deep}/d")
    app.write(f"{deep}/f", "x")
    assert "at most 12 names" in refused(app, lambda: app.mkdir(f"{deep}/e/g"))
    assert "at most 12 names" in refused(app, lambda: app.mv("/work", "/docs"))
    assert "at most 12 names" in refused(app, lambda: app.cp("/work/d", "/docs/old"))


def test_the_disk_is_bounded(app: FilesApp) -> None:
    assert f"at most {MAX_TEXT}" in refused(app, lambda: app.write("/work/a", "x" * (MAX_TEXT + 1)))
    for number in range(MAX_TOTAL // MAX_TEXT - 1):
        app.write(f"/work/{number}", "x" * MAX_TEXT)
    for action in (
        lambda: app.write("/docs/a", "x" * MAX_TEXT),
        lambda: app.write("/docs/plan", "x" * MAX_TEXT),
        lambda: app.append("/docs/plan", "x" * (MAX_TEXT - 10)),
        lambda: app.cp("/work", "/docs"),
    ):
        assert "disk is full" in refused(app, action)
    assert len(app.snapshot()) < 750_000


def test_the_disk_holds_so_many_nodes(app: FilesApp) -> None:
    app.mkdir("/work/a")
    for number in range(200):
        app.write(f"/work/a/{number}", "")
    for name in "bcd":
        app.cp("/work/a", f"/work/{name}")
    assert f"at most {MAX_NODES}" in refused(app, lambda: app.cp("/work/a", "/work/e"))


NAMES = st.sampled_from(("/", "/a", "/a/b", "/a/b/c", "/d", "a/../d", "//d/e/", "/d/a", "..", "\ud800", "/a\0"))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(NAMES, NAMES), max_size=25), st.integers(0, 2**32))
def test_any_commands_leave_a_whole_tree_and_an_exact_diff(pairs: list[tuple[str, str]], seed: int) -> None:
    app, rng = FilesApp(), random.Random(seed)
    app.mkdir("/a")
    app.write("/d", "root")
    before = app.state()
    app.state_diff()
    for path, other in pairs:
        with suppress(ToolError):
            commands(app, rng, path, other)()
        assert flaws(app) == []
    assert app.state_diff() == patch(before, app.state())
    assert FilesApp(app.snapshot()).state_hash() == app.state_hash()
