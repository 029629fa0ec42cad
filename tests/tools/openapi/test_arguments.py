from __future__ import annotations

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from agentgrpo.errors import EnvError
from agentgrpo.tools.openapi.arguments import validator
from agentgrpo.types import Json, JsonObject

SCHEMA: JsonObject = {
    "type": "object",
    "required": ["id", "lines"],
    "properties": {
        "id": {"type": "integer", "minimum": 1, "maximum": 9},
        "lines": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["item"],
                "properties": {"item": {"type": "string", "minLength": 1}, "count": {"type": "number"}},
            },
        },
        "size": {"enum": ["s", "l", 3, None]},
        "note": {"anyOf": [{"type": "string", "maxLength": 5}, {"type": "null"}]},
        "price": {"type": "number", "exclusiveMinimum": 0},
        "tags": {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
        "labels": {"type": "object", "additionalProperties": {"type": "integer"}},
        "code": {"type": "string", "pattern": "^[a-z]{2}[0-9]+$"},
        "both": {"allOf": [{"type": "integer", "minimum": 2}, {"type": "integer", "multipleOf": 3}]},
        "either": {"oneOf": [{"type": "integer"}, {"type": "array", "items": {"type": "integer"}}]},
        "odd name[]": {"type": "boolean"},
        "fixed": {"const": {"a": [1]}},
        "strict": {"type": "object", "properties": {"a": {}}, "additionalProperties": False},
    },
}
GOOD: JsonObject = {"id": 3, "lines": [{"item": "pen", "extra": [1]}]}


def problems(arguments: JsonObject) -> list[tuple[str, str]]:
    """Return where and what is wrong with arguments."""
    try:
        validator(SCHEMA)(arguments)
    except ValidationError as error:
        return [(".".join(map(str, item["loc"])), item["msg"]) for item in error.errors()]
    return []


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"size": "s"},
        {"size": 3},
        {"size": None},
        {"note": None},
        {"note": "short"},
        {"price": 3},
        {"price": 0.5},
        {"tags": ["a", "b"]},
        {"labels": {"x": 1}},
        {"code": "ab12"},
        {"both": 6},
        {"either": 1},
        {"either": [1, 2]},
        {"odd name[]": True},
        {"fixed": {"a": [1]}},
        {"strict": {"a": object}},
    ],
)
def test_good_arguments_pass_as_they_are(more: JsonObject) -> None:
    assert validator(SCHEMA)(GOOD | more) == GOOD | more


@pytest.mark.parametrize(
    ("more", "place"),
    [
        ({"id": 0}, "id"),
        ({"id": 10}, "id"),
        ({"id": 1.5}, "id"),
        ({"id": "x"}, "id"),
        ({"id": None}, "id"),
        ({"id": [1]}, "id"),
        ({"lines": []}, "lines"),
        ({"lines": "pen"}, "lines"),
        ({"lines": {"item": "pen"}}, "lines"),
        ({"lines": [{}]}, "lines.0.item"),
        ({"lines": [{"item": ""}]}, "lines.0.item"),
        ({"lines": [{"item": "a", "count": "x"}]}, "lines.0.count"),
        ({"size": "m"}, "size"),
        ({"note": "too long"}, "note"),
        ({"price": 0}, "price"),
        ({"price": 10**400}, "price"),
        ({"tags": ["a", "a"]}, "tags"),
        ({"labels": {"x": "y"}}, "labels.x"),
        ({"code": "ab"}, "code"),
        ({"both": 3 + 1}, "both"),
        ({"fixed": {"a": [2]}}, "fixed"),
        ({"strict": {"b": 1}}, "strict.b"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_what_is_wrong_is_named(more: JsonObject, place: str) -> None:
    assert [where for where, _ in problems(GOOD | more)] == [place]


def test_what_is_missing_is_named() -> None:
    assert problems({}) == [("id", "Field required"), ("lines", "Field required")]


def test_numbers_in_quotes_are_taken_as_native_tools_take_them() -> None:
    checked = validator(SCHEMA)(GOOD | {"id": "3", "price": "2.5"})
    assert (checked["id"], checked["price"]) == (3, 2.5)
    assert isinstance(validator(SCHEMA)(GOOD | {"price": 3})["price"], int)


def test_defaults_are_the_services_business() -> None:
    schema = {"properties": {"a": {"type": "integer", "default": 1}}}
    assert validator(schema)({}) == {}


@pytest.mark.parametrize("pattern", ["(?=x)", "(?<!a)b", "(a)\\1", "["])
def test_a_pattern_that_takes_no_linear_time_is_left_to_the_service(pattern: str) -> None:
    assert validator({"properties": {"a": {"type": "string", "pattern": pattern}}})({"a": "q"}) == {"a": "q"}


def test_no_pattern_hangs() -> None:
    check = validator({"properties": {"a": {"type": "string", "pattern": "^(a+)+$"}}})
    started = time.thread_time()
    with pytest.raises(ValidationError):
        check({"a": "a" * 50_000 + "!"})
    assert time.thread_time() - started < 1


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"a": {"type": "integer", "minimum": "x", "multipleOf": 0}}},
        {"properties": {"a": {"type": "integer", "minimum": 0.5, "maximum": 2.5}}},
        {"properties": {"a": {"type": "number", "multipleOf": -1}}},
        {"properties": {"a": {"type": "file"}}},
        {"properties": {"a": {"enum": []}}},
        {"properties": {"a": {"anyOf": []}}},
        {"properties": {"a": {"type": "string", "minLength": -1}}},
        {},
    ],
)
def test_schemas_that_make_little_sense_still_check_what_they_can(schema: JsonObject) -> None:
    value = "x" if schema.get("properties", {}).get("a", {}).get("type") == "string" else 1
    arguments = {"a": value} if schema else {}
    assert validator(schema)(arguments) == arguments


WORDS = st.sampled_from(["", "s", "ab1", "pen"])
LEAVES = st.none() | st.booleans() | st.integers(-5, 12) | st.floats(-3, 12, width=16) | WORDS
KEYS = st.sampled_from(["item", "count", "a", "x"])
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=6
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from([*SCHEMA["properties"], "unknown"]), VALUES, max_size=3))
def test_what_jsonschema_accepts_is_accepted_and_what_comes_out_it_accepts(more: Json) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    is_valid = jsonschema.Draft202012Validator(SCHEMA | {"additionalProperties": False}).is_valid
    arguments = GOOD | more
    try:
        checked = validator(SCHEMA)(arguments)
    except ValidationError:
        assert not is_valid(arguments)
        return
    assert is_valid(checked)
    assert json.loads(json.dumps(checked)) == checked


def test_a_schema_that_cannot_be_used_is_the_authors_mistake() -> None:
    with pytest.raises(EnvError, match="cannot be checked against"):
        validator({"properties": {1: {"type": "string"}}})
