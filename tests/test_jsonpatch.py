from __future__ import annotations

import copy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agentgrpo.jsonpatch import patch
from agentgrpo.types import Json, JsonObject

SCALARS = st.none() | st.booleans() | st.integers(-3, 3) | st.text("ab/~", max_size=3)
STATES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab/~", max_size=2), inner, max_size=4)
)


def test_each_operation_says_what_changed() -> None:
    before = {"a": {"x": 1, "gone": 2}, "b": [1], "c/d": "old", "same": {}}
    after = {"a": {"x": 1}, "b": [1, 2], "c/d": "new", "same": {}, "e": {"f": 1}}
    assert patch(before, after) == [
        {"op": "remove", "path": "/a/gone"},
        {"op": "replace", "path": "/b", "old": [1], "value": [1, 2]},
        {"op": "replace", "path": "/c~1d", "old": "old", "value": "new"},
        {"op": "add", "path": "/e", "value": {"f": 1}},
    ]


def test_true_is_not_one() -> None:
    assert patch({"a": 1}, {"a": True}) == [{"op": "replace", "path": "/a", "old": 1, "value": True}]


@given(STATES, STATES)
def test_the_operations_lead_from_one_state_to_the_other(before: Json, after: Json) -> None:
    operations = patch(before, after)
    assert apply(before, operations) == after
    assert bool(operations) == (repr(before) != repr(after)) or before == after


def apply(state: Json, operations: list[JsonObject]) -> Json:
    """Apply add, remove and replace as RFC 6902 defines them on objects."""
    root: Any = {"": copy.deepcopy(state)}
    for operation in operations:
        *parents, last = [
            "",
            *(part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]),
        ]
        target = root
        for part in parents:
            target = target[part]
        assert (last in target) == (operation["op"] != "add")
        if operation["op"] == "remove":
            del target[last]
        else:
            target[last] = operation["value"]
    return root[""]
