from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgrpo.errors import EnvError
from agentgrpo.rewards import changed_paths, side_effects, unexpected
from agentgrpo.rewards.changes import value_at
from agentgrpo.tools.appstate import patch

BEFORE = {"orders": {"o1": {"status": "open", "tags": [1]}, "o2": {"status": "open"}}, "log": {"n": 1}}
AFTER = {"orders": {"o1": {"status": "gone", "tags": [1, 2]}, "o/3": {"status": "open"}}, "log": {"n": 2}}


def test_changes_are_named_as_deep_as_can_be_said() -> None:
    assert changed_paths(BEFORE, AFTER) == (
        "/log/n",
        "/orders/o~13",
        "/orders/o1/status",
        "/orders/o1/tags",
        "/orders/o2",
    )
    assert changed_paths(1, 2) == ("",)


def test_an_expected_place_covers_what_is_below_and_a_star_any_one_part() -> None:
    paths = changed_paths(BEFORE, AFTER)
    assert unexpected(paths, ["/orders"], ignore=["/log"]) == ()
    assert unexpected(paths, ["/orders/*/status", "/log"]) == ("/orders/o~13", "/orders/o1/tags", "/orders/o2")
    assert unexpected(paths, ["/orders/o1", "/orders/o2/status"], ignore=["/log/*"]) == ("/orders/o~13", "/orders/o2")
    assert unexpected(paths, [""]) == ()


def test_the_operations_of_an_app_are_changes_too() -> None:
    rows: Any = {"orders": {"o1": {"status": "open"}}}
    later: Any = {"orders": {"o1": {"status": "gone"}, "o2": {"status": "open"}}}
    assert unexpected(patch(rows, later), ["/orders/o1/status"]) == ("/orders/o2",)


def test_side_effects_grow_to_one_at_the_limit() -> None:
    assert side_effects([], ["/a"]) == 0.0
    assert side_effects(["/a"], ["/a"]) == 0.0
    assert side_effects(["/b"], ["/a"]) == 1.0
    assert side_effects(["/b", "/b", "/c"], ["/a"], limit=4) == 0.5
    assert side_effects(map(str, ["/b", "/c", "/d"]), [], limit=2) == 1.0
    with pytest.raises(EnvError, match="got limit = 0, expected at least 1"):
        side_effects([], [], limit=0)


@pytest.mark.parametrize(
    ("pointer", "value"),
    [
        ("", BEFORE),
        ("/orders/o1/tags/0", 1),
        ("/orders/o1/tags/1", None),
        ("/orders/o1/tags/x", None),
        ("/orders/o1/status/deeper", None),
        ("/nothing", None),
    ],
)
def test_a_pointer_leads_to_a_value_or_to_none(pointer: str, value: Any) -> None:
    assert value_at(BEFORE, pointer) == value


def test_what_is_no_pointer_is_refused() -> None:
    with pytest.raises(EnvError, match="'orders/o1' is no JSON Pointer: expected one such as"):
        unexpected(["/a"], ["orders/o1"])


states = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.dictionaries(st.text(max_size=3), inner, max_size=3) | st.lists(inner, max_size=2),
    max_leaves=6,
)


@given(states, states)
def test_states_differ_exactly_where_it_is_said(before: Any, after: Any) -> None:
    paths = changed_paths(before, after)
    assert (paths == ()) == (before == after)
    # Where nothing is there on one side, the other may hold a null.
    assert all(value_at(before, path) != value_at(after, path) or value_at(before, path) is None for path in paths)
    assert unexpected(paths, paths) == ()
