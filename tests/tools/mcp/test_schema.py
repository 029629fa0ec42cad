from __future__ import annotations

import json
import time
from typing import Any

import pytest

pytest.importorskip("jsonschema")

from hypothesis import given, settings
from hypothesis import strategies as st

from agentgrpo.tools.mcp.schema import MAX_DEPTH, MAX_NODES, checker, flat
from agentgrpo.types import JsonObject

LINE = {"type": "object", "title": "Line", "properties": {"title": {"type": "string", "title": "Title"}}}


def test_references_are_written_out_and_titles_dropped() -> None:
    schema = {
        "title": "order",
        "type": "object",
        "properties": {"lines": {"type": "array", "items": {"$ref": "#/$defs/a~1b"}}, "$ref": {"type": "integer"}},
        "required": ["lines"],
        "$defs": {"a/b": LINE},
        "$schema": "x",
    }
    assert flat(schema) == {
        "type": "object",
        "properties": {
            "lines": {"type": "array", "items": {"type": "object", "properties": {"title": {"type": "string"}}}},
            "$ref": {"type": "integer"},
        },
        "required": ["lines"],
    }


@pytest.mark.parametrize(
    "reference", ["#/$defs/none", "http://evil.example/x", "file:///etc/passwd", "#/required/0", "", 5]
)
def test_a_reference_that_leads_nowhere_fits_anything(reference: Any) -> None:
    schema = flat({"type": "object", "properties": {"a": {"$ref": reference}}, "required": ["a"]})
    assert checker(schema)({"a": [1]}) == {"a": [1]}


def test_what_contains_itself_is_cut() -> None:
    node: JsonObject = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}
    schema = flat({"type": "object", "properties": {"first": {"$ref": "#/$defs/node"}}, "$defs": {"node": node}})
    assert schema["properties"]["first"] == {"type": "object", "properties": {"next": {}}}


def test_a_schema_that_doubles_with_every_reference_stays_small() -> None:
    both = {f"a{i}": {"allOf": [{"$ref": f"#/$defs/a{i + 1}"}, {"$ref": f"#/$defs/a{i + 1}"}]} for i in range(60)}
    clock = time.thread_time()
    schema = flat({"type": "object", "properties": {"x": {"$ref": "#/$defs/a0"}}, "$defs": {**both, "a60": {}}})
    checker(schema)({"x": 1})
    assert time.thread_time() - clock < 2
    assert len(json.dumps(schema)) < 40 * MAX_NODES


def test_a_deep_schema_is_cut() -> None:
    deep: JsonObject = {}
    for _ in range(200):
        deep = {"type": "array", "items": deep}
    assert json.dumps(flat({"type": "object", "properties": {"x": deep}})).count("items") <= MAX_DEPTH


def test_arguments_that_do_not_fit_are_told_in_one_line() -> None:
    schema = {
        "type": "object",
        "properties": {"count": {"type": "integer", "minimum": 1}, "size": {"enum": ["s", "l"]}},
        "required": ["count"],
        "additionalProperties": False,
    }
    check = checker(flat(schema))
    assert check({"count": 1, "size": "s"}) == {"count": 1, "size": "s"}
    for arguments, told in (
        ({}, "'count' is a required property"),
        ({"count": 0}, "argument 'count': 0 is less than the minimum of 1"),
        ({"count": "1"}, "argument 'count': '1' is not of type 'integer'"),
        ({"count": 1, "size": "m"}, r"argument 'size': 'm' is not one of \['s', 'l'\]"),
        ({"count": 1, "cont": 1}, "Additional properties are not allowed"),
    ):
        with pytest.raises(ValueError, match=told) as error:
            check(arguments)
        assert "\n" not in str(error.value)


def test_no_pattern_of_a_server_is_run() -> None:
    """This one takes longer than the universe has, and holds Python's lock meanwhile."""
    forever = "^(a+)+$"
    schema = {
        "type": "object",
        "properties": {"x": {"type": "string", "pattern": forever}},
        "patternProperties": {forever: {"pattern": forever}},
        "propertyNames": {"pattern": forever},
        "additionalProperties": False,
    }
    clock = time.thread_time()
    assert checker(flat(schema))({"x": "a" * 50 + "!", "a" * 50 + "!": "a"})
    assert time.thread_time() - clock < 1
    assert flat(schema)["properties"]["x"]["pattern"] == forever  # the model may read it


def test_what_is_no_schema_is_refused() -> None:
    with pytest.raises(ValueError, match="is not valid under any of the given schemas"):
        checker(flat({"type": "object", "properties": {"x": {"type": 5}}}))


KEYS = st.sampled_from(["$ref", "properties", "items", "type", "allOf", "enum", "title", "$defs", "pattern", "x", ""])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["#", "#/$defs/x", "#/properties/x", "object", "("]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(
    schema=st.dictionaries(KEYS, VALUES, max_size=4), arguments=st.dictionaries(st.text(max_size=2), VALUES, max_size=3)
)
def test_whatever_a_server_sends_gives_a_schema_or_says_that_it_is_none(
    schema: dict[str, Any], arguments: dict[str, Any]
) -> None:
    written = flat(schema)
    assert written["type"] == "object"
    assert "$ref" not in written
    try:
        check = checker(written)
    except ValueError:
        return
    try:
        assert check(arguments) is arguments
    except ValueError as error:
        assert "\n" not in str(error)
