"""Schemas of an OpenAPI document, made flat: references inlined, its dialects brought to one, only what a model reads.

It does not validate: `arguments` does. A flat schema is of JSON Schema 2020-12, without `$ref`, `nullable`, lists of
types, titles or examples.

Whoever includes an operation is there to read a message, so what has no flat form is refused. `tools.mcp.schema` reads
what servers send in mid-run, when nobody is: there it is cut.
"""

from __future__ import annotations

from typing import Any

from agentgrpo.errors import EnvError
from agentgrpo.jsonpointer import parts
from agentgrpo.tooling import one_line
from agentgrpo.types import Json, JsonObject

MAX_DESCRIPTION = 200  # characters
MAX_PARTS = 2000  # schemas within a schema
_KEPT = (
    *("type", "description", "format", "enum", "const", "default", "pattern", "minLength", "maxLength"),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    *("required", "minProperties", "maxProperties", "minItems", "maxItems", "uniqueItems"),
)
_CHOICES = ("anyOf", "oneOf", "allOf")
_ABOUT = ("description", "default")  # of a value, whatever its type


def lookup(document: JsonObject, reference: str) -> Json:
    """Return what a local reference (`#/components/schemas/Pet`) names.

    Raises:
        EnvError: it names nothing, or something outside the document.
    """
    if not reference.startswith("#"):
        raise EnvError(f"the reference {reference!r} leaves the document: only '#/...' is followed; put it all in one")
    found: Any = document
    for key in parts(reference):
        if not isinstance(found, dict) or key not in found:
            raise EnvError(f"the reference {reference!r} names nothing in the document")
        found = found[key]
    return found


def flatten(schema: Json, document: JsonObject) -> JsonObject:
    """Return a flat copy of a schema; what only answers hold (`readOnly`) is left out.

    Args:
        schema: Of OpenAPI 3.0 or 3.1, or JSON Schema.
        document: What its references point into.

    Raises:
        EnvError: it contains itself, or grows too large, or a reference cannot be followed.
    """
    return _Flattener(document).flat(schema, ())


class _Flattener:
    """One flattening; it counts parts, because a few references can multiply into millions."""

    def __init__(self, document: JsonObject) -> None:
        self._document, self._count = document, 0

    def flat(self, schema: Json, path: tuple[str, ...]) -> JsonObject:
        self._count += 1
        if self._count > MAX_PARTS:
            raise EnvError(
                f"a schema has more than {MAX_PARTS} parts once references are inlined: too many for a model"
            )
        schema, path = self._resolve(schema, path)
        flat = {key: schema[key] for key in _KEPT if key in schema}
        if "description" in flat:
            flat["description"] = one_line(str(flat["description"]), MAX_DESCRIPTION)
        properties = schema.get("properties")
        if isinstance(properties, dict):
            self._add_properties(flat, properties, path)
        if isinstance(schema.get("additionalProperties"), dict):
            flat["additionalProperties"] = self.flat(schema["additionalProperties"], path)
        elif schema.get("additionalProperties") is False:
            flat["additionalProperties"] = False
        if "items" in schema:
            flat["items"] = self.flat(schema["items"], path)
        for key in _CHOICES:
            if isinstance(schema.get(key), list):
                flat[key] = [self.flat(member, path) for member in schema[key]]
        return _one_dialect(_merge_all(flat), is_nullable=schema.get("nullable") is True)

    def _resolve(self, schema: Json, path: tuple[str, ...]) -> tuple[JsonObject, tuple[str, ...]]:
        """Follow references; what stands beside one adds to it."""
        beside: JsonObject = {}
        while isinstance(schema, dict) and isinstance(reference := schema.get("$ref"), str):
            if reference in path:
                name = reference.rsplit("/", 1)[-1]
                raise EnvError(f"the schema {name} contains itself, which has no flat form: leave this operation out")
            path = (*path, reference)
            beside = {**{key: value for key, value in schema.items() if key != "$ref"}, **beside}
            schema = lookup(self._document, reference)
        return {**(schema if isinstance(schema, dict) else {}), **beside}, path

    def _add_properties(self, flat: JsonObject, properties: JsonObject, path: tuple[str, ...]) -> None:
        sent = {name: item for name, item in properties.items() if not self._is_read_only(item, path)}
        flat["properties"] = {name: self.flat(item, path) for name, item in sent.items()}
        required = [name for name in flat.pop("required", ()) if name not in properties or name in sent]
        flat |= {"required": required} if required else {}

    def _is_read_only(self, schema: Json, path: tuple[str, ...]) -> bool:
        is_reference = isinstance(schema, dict) and "$ref" in schema
        target = self._resolve(schema, path)[0] if is_reference else schema
        return isinstance(target, dict) and target.get("readOnly") is True


def _merge_all(flat: JsonObject) -> JsonObject:
    """Return a schema with its `allOf` merged into it, or as it is where members contradict each other."""
    merged = {key: value for key, value in flat.items() if key != "allOf"}
    for member in flat.get("allOf", ()):
        for key, value in member.items():
            if key == "properties":
                clash = merged.get(key, {}).keys() & value.keys()
                if any(merged[key][name] != value[name] for name in clash):
                    return flat
                merged[key] = {**merged.get(key, {}), **value}
            elif key == "required":
                merged[key] = list(dict.fromkeys([*merged.get(key, ()), *value]))
            elif merged.setdefault(key, value) != value and key != "description":
                return flat
    return merged


def _one_dialect(flat: JsonObject, *, is_nullable: bool) -> JsonObject:
    """Return the schema with one type per level: choices are spelled `anyOf`, as pydantic spells them."""
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        # In OpenAPI 3.0 these are true or false.
        if isinstance(flat.get(exclusive), bool) and flat.pop(exclusive) and bound in flat:
            flat[exclusive] = flat.pop(bound)
    types = flat["type"] if isinstance(flat.get("type"), list) else None
    if types is None and not is_nullable:
        return flat
    about = {key: flat.pop(key) for key in _ABOUT if key in flat}
    if types is None:
        members = [flat] if flat != {} else []
    else:
        members = [flat | {"type": name} for name in types if name != "null"]
    has_null = is_nullable or (types is not None and "null" in types)
    members += [{"type": "null"}] if has_null and members else []
    if not members:
        return {"type": "null", **about} if types else about
    return {**(members[0] if len(members) == 1 else {"anyOf": members}), **about}
