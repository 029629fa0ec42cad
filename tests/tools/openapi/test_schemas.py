from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentgrpo.errors import EnvError
from agentgrpo.tools.openapi.schemas import flatten, lookup
from agentgrpo.types import Json, JsonObject

DOCUMENT: JsonObject = {
    "components": {
        "schemas": {
            "Size": {"type": "string", "enum": ["s", "l"], "title": "Size"},
            "Line": {
                "type": "object",
                "required": ["item", "id"],
                "properties": {
                    "id": {"type": "integer", "readOnly": True},
                    "item": {"type": "string", "example": "pen"},
                    "size": {"$ref": "#/components/schemas/Size", "description": "How big."},
                },
                "x-internal": True,
            },
            "Lines": {"type": "array", "items": {"$ref": "#/components/schemas/Line"}},
            "Node": {"properties": {"children": {"type": "array", "items": {"$ref": "#/components/schemas/Node"}}}},
            "Loop": {"$ref": "#/components/schemas/Loop"},
            "a/b~c": {"type": "boolean"},
        }
    }
}


def ref(name: str, **beside: Json) -> JsonObject:
    return {"$ref": f"#/components/schemas/{name}", **beside}


def test_references_are_inlined_and_what_no_model_reads_is_left_out() -> None:
    line = {
        "type": "object",
        "properties": {
            "item": {"type": "string"},
            "size": {"type": "string", "enum": ["s", "l"], "description": "How big."},
        },
        "required": ["item"],
    }
    assert flatten(ref("Lines"), DOCUMENT) == {"type": "array", "items": line}
    assert flatten(ref("Lines", description="All."), DOCUMENT) == {
        "type": "array",
        "items": line,
        "description": "All.",
    }


def test_the_document_is_not_changed() -> None:
    before = json.dumps(DOCUMENT)
    flatten(ref("Lines"), DOCUMENT)
    assert json.dumps(DOCUMENT) == before


@pytest.mark.parametrize("name", ["Node", "Loop"])
def test_a_schema_that_contains_itself_is_refused_by_name(name: str) -> None:
    with pytest.raises(EnvError, match=f"the schema {name} contains itself"):
        flatten(ref(name), DOCUMENT)


@pytest.mark.parametrize(
    ("reference", "told"),
    [
        ("#/components/schemas/Nope", "names nothing"),
        ("#/components/schemas/Line/required/0", "names nothing"),
        ("other.json#/Pet", "leaves the document"),
        ("http://evil.example/x", "leaves the document"),
        ("file:///etc/passwd", "leaves the document"),
    ],
)
def test_only_references_within_the_document_are_followed(reference: str, told: str) -> None:
    with pytest.raises(EnvError, match=told):
        flatten({"$ref": reference}, DOCUMENT)


def test_pointers_have_escapes() -> None:
    assert lookup(DOCUMENT, "#/components/schemas/a~1b~0c") == {"type": "boolean"}
    assert lookup(DOCUMENT, "#") is DOCUMENT


def test_references_that_multiply_are_refused_before_they_fill_the_memory() -> None:
    schemas: JsonObject = {"s0": {"type": "string"}}
    for level in range(1, 40):
        schemas[f"s{level}"] = {"properties": {side: ref(f"s{level - 1}") for side in ("left", "right")}}
    with pytest.raises(EnvError, match="more than 2000 parts"):
        flatten(ref("s39"), {"components": {"schemas": schemas}})


@pytest.mark.parametrize(
    ("schema", "flat"),
    [
        ({"type": "string", "nullable": True}, {"anyOf": [{"type": "string"}, {"type": "null"}]}),
        ({"type": ["string", "null"]}, {"anyOf": [{"type": "string"}, {"type": "null"}]}),
        ({"type": ["string"]}, {"type": "string"}),
        ({"type": "null"}, {"type": "null"}),
        (
            {"type": ["integer", "string"], "description": "x", "default": 1},
            {"anyOf": [{"type": "integer"}, {"type": "string"}], "description": "x", "default": 1},
        ),
        ({"nullable": True}, {}),
        ({"type": "integer", "minimum": 0, "exclusiveMinimum": True}, {"type": "integer", "exclusiveMinimum": 0}),
        ({"type": "integer", "maximum": 9, "exclusiveMaximum": False}, {"type": "integer", "maximum": 9}),
        ({"type": "integer", "exclusiveMaximum": 9}, {"type": "integer", "exclusiveMaximum": 9}),
        ({"allOf": [ref("Size")], "description": "d"}, {"type": "string", "enum": ["s", "l"], "description": "d"}),
        (
            {"allOf": [{"properties": {"a": {"type": "string"}}, "required": ["a"]}, {"properties": {"b": {}}}]},
            {"properties": {"a": {"type": "string"}, "b": {}}, "required": ["a"]},
        ),
        (
            {"allOf": [{"type": "string", "minLength": 1}, {"type": "string", "minLength": 2}]},
            {"allOf": [{"type": "string", "minLength": 1}, {"type": "string", "minLength": 2}]},
        ),
        (
            {"type": "object", "additionalProperties": ref("Size")},
            {"type": "object", "additionalProperties": {"type": "string", "enum": ["s", "l"]}},
        ),
        ({"type": "object", "additionalProperties": False}, {"type": "object", "additionalProperties": False}),
        ({"type": "object", "additionalProperties": True}, {"type": "object"}),
        (True, {}),
        (None, {}),
        ({"description": "a\n  b " + "x" * 300}, {"description": "a b " + "x" * 196 + "... (104 more characters)"}),
    ],
)
def test_dialects_become_one(schema: Json, flat: JsonObject) -> None:
    assert flatten(schema, DOCUMENT) == flat


KEYS = st.sampled_from(
    [
        *(
            "type",
            "properties",
            "items",
            "allOf",
            "anyOf",
            "$ref",
            "required",
            "nullable",
            "enum",
            "default",
            "minimum",
        ),
        *("minimum", "exclusiveMinimum", "additionalProperties", "description", "a"),
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None)
@given(JSON)
def test_any_json_becomes_a_flat_schema_or_the_authors_mistake(schema: Json) -> None:
    try:
        flat = flatten(schema, DOCUMENT)
    except EnvError:
        return
    assert isinstance(flat, dict)
    assert "$ref" not in flat and "nullable" not in flat
