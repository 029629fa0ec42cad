from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentgrpo.errors import UserError
from agentgrpo.registry import resolve_env
from agentgrpo.tooling import tool
from agentgrpo.tools.appstate import AppState
from agentgrpo.tools.faces import Sessions, app_maker, tools_of
from agentgrpo.tools.shop import ShopApp


class Counter(AppState):
    """Counts; only what is marked is a tool."""

    schema = "CREATE TABLE counts (id TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;"

    @tool(name="add")
    def add_one(self, name: str) -> int:
        """Add one."""
        self.change("INSERT INTO counts VALUES (?, 1) ON CONFLICT (id) DO UPDATE SET value = value + 1", name)
        return self.value(name)

    def value(self, name: str) -> int:
        """Return a count."""
        row = self.row("SELECT value FROM counts WHERE id = ?", name)
        return 0 if row is None else int(str(row["value"]))


def test_an_apps_tools_are_its_own_public_functions() -> None:
    names = list(tools_of(ShopApp()))
    assert names[0] == "find_customer"
    assert "refund_order" in names
    assert not {"snapshot", "restore", "change", "state", "rows"} & set(names)
    assert not any(name.startswith("_") for name in names)


@pytest.mark.parametrize("name", ["shop", "files", "workspace"])
def test_a_shipped_app_has_the_tools_of_its_environment(name: str) -> None:
    env: Any = resolve_env(name).make()
    info = env.reset(seed=0)[1]
    offered = {told["function"]["name"]: told["function"]["parameters"] for told in info["tools"]}
    own = {tool.name: tool.parameters for tool in tools_of(app_maker(name)()).values()}
    assert own.keys() - offered.keys() == set()
    assert {name: offered[name] for name in own} == own
    assert offered.keys() - own.keys() <= {"answer"}  # what ends an episode is the environment's
    env.close()


def test_where_some_are_marked_only_those_are_tools() -> None:
    assert list(tools_of(Counter())) == ["add"]


def test_sessions_share_a_start_and_nothing_else() -> None:
    start = Counter()
    start.add_one("a")
    sessions = Sessions(lambda: Counter(start.snapshot()))
    sessions.tools("x")["add"].call({"name": "a"})
    assert [sessions.app(name).state()["counts"]["a"]["value"] for name in ("x", "y")] == [2, 1]
    sessions.reset("x")
    assert sessions.app("x").state_hash() == start.state_hash()
    sessions.begin("x", sessions.app("y").fork().snapshot())
    sessions.tools("x")["add"].call({"name": "b"})
    sessions.end("x")
    assert sessions.app("x").state_hash() == start.state_hash()
    sessions.close()


def test_what_is_no_snapshot_changes_nothing() -> None:
    sessions = Sessions(Counter)
    sessions.tools("x")["add"].call({"name": "a"})
    before = sessions.app("x").state()
    for nonsense in (b"nonsense", b"SQLite format 3\x00" + b"x" * 5000, ShopApp().snapshot()):
        with pytest.raises(UserError, match="this is no snapshot of Counter"):
            sessions.begin("x", nonsense)
        assert sessions.app("x").state() == before
    sessions.tools("x")["add"].call({"name": "a"})
    assert sessions.app("x").state()["counts"]["a"]["value"] == 2


def test_an_app_is_found_by_name_or_class(tmp_path: Path) -> None:
    file = tmp_path / "start.db"
    file.write_bytes(ShopApp().snapshot())
    assert type(app_maker("shop", file)()) is ShopApp
    assert type(app_maker("tests.tools.test_faces:Counter")()) is Counter


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("shp", "cannot import the app 'shp'"),
        ("faults", "expected one class derived from AppState in agentgrpo.tools.faults, got none"),
        ("agentgrpo.tools.shop:STATUSES", "got none"),
    ],
)
def test_what_is_no_app_is_told(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        app_maker(name)


def test_a_start_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "bad").write_bytes(b"x")
    for file in (tmp_path / "missing", tmp_path / "bad"):
        with pytest.raises(UserError, match="the app 'shop' cannot begin with"):
            app_maker("shop", file)
