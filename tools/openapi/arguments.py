"""Arguments checked against a flat schema by pydantic: coercions, errors and speed are those of native tools.

It knows the dialect of `schemas.flatten` and no other. Whatever keyword it does not know, and `format`, is left to the
service; `oneOf` is read as `anyOf`. Patterns run in Rust's linear-time engine; one it cannot read is left out too.

Unlike `tools.mcp.schema`, which has all of JSON Schema and changes no argument, it sends 3 where a model wrote "3", and
refuses arguments the document does not name: an HTTP service would take them for what they are not, without a word.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from pydantic_core import CoreSchema, SchemaError, SchemaValidator, core_schema

from agentgrpo.errors import EnvError
from agentgrpo.tooling import one_line
from agentgrpo.types import Json, JsonObject


def validator(parameters: JsonObject) -> Callable[[JsonObject], dict[str, Any]]:
    """Return the function that checks arguments against the schema of an object; unknown arguments are refused.

    The function returns what was given, coerced, without defaults, or raises pydantic's `ValidationError`.

    Raises:
        EnvError: the schema cannot be used.
    """
    try:
        checker = SchemaValidator(_object(parameters | {"additionalProperties": False}))
    except (SchemaError, TypeError, ValueError, OverflowError) as error:
        raise EnvError(f"a schema that cannot be checked against: {one_line(str(error))}") from error

    def validate(arguments: JsonObject) -> dict[str, Any]:
        checked: dict[str, Any] = checker.validate_python(arguments)
        return checked

    return validate


def _core(schema: JsonObject) -> CoreSchema:
    """Return pydantic's schema of a flat JSON schema: everything it says has to hold, one after the other."""
    parts: list[CoreSchema] = []
    if "const" in schema:
        parts.append(core_schema.literal_schema([schema["const"]]))
    if isinstance(schema.get("enum"), list) and schema["enum"]:
        parts.append(core_schema.literal_schema(schema["enum"]))
    elif (kind := _kind(schema)) is not None:
        parts.append(kind(schema))
    parts += [_choice(schema[key]) for key in ("anyOf", "oneOf") if schema.get(key)]
    parts += [_core(member) for member in schema.get("allOf", ())]
    if not parts:
        return core_schema.any_schema()
    return parts[0] if len(parts) == 1 else core_schema.chain_schema(parts)


def _kind(schema: JsonObject) -> Callable[[JsonObject], CoreSchema] | None:
    name = schema.get("type")
    if name is None:
        name = "object" if "properties" in schema else "array" if "items" in schema else None
    return _KINDS.get(name) if isinstance(name, str) else None


def _choice(members: list[JsonObject]) -> CoreSchema:
    others = [member for member in members if member != {"type": "null"}]
    if not others:
        return core_schema.none_schema()
    cores = [_core(member) for member in others]
    choice = cores[0] if len(cores) == 1 else core_schema.union_schema([*cores], mode="smart")
    return choice if len(others) == len(members) else core_schema.nullable_schema(choice)


def _object(schema: JsonObject) -> CoreSchema:
    required = set(schema.get("required", ()))
    properties = schema.get("properties", {})
    more = schema.get("additionalProperties", True)
    fields = {
        name: core_schema.typed_dict_field(_core(item), required=name in required) for name, item in properties.items()
    }
    for name in required - properties.keys():
        fields[name] = core_schema.typed_dict_field(core_schema.any_schema(), required=True)
    if more is False:
        return core_schema.typed_dict_schema(fields, extra_behavior="forbid")
    extras = _core(more) if isinstance(more, dict) else core_schema.any_schema()
    return core_schema.typed_dict_schema(fields, extra_behavior="allow", extras_schema=extras)


def _array(schema: JsonObject) -> CoreSchema:
    items = _core(schema["items"]) if isinstance(schema.get("items"), dict) else core_schema.any_schema()
    core = core_schema.list_schema(items, min_length=_count(schema, "minItems"), max_length=_count(schema, "maxItems"))
    return core_schema.no_info_after_validator_function(_distinct, core) if schema.get("uniqueItems") is True else core


def _distinct(items: list[Any]) -> list[Any]:
    if any(item in items[:index] for index, item in enumerate(items)):
        raise ValueError("expected no item twice")
    return items


def _string(schema: JsonObject) -> CoreSchema:
    pattern = schema.get("pattern")
    return core_schema.str_schema(
        pattern=pattern if isinstance(pattern, str) and _is_readable(pattern) else None,
        min_length=_count(schema, "minLength"),
        max_length=_count(schema, "maxLength"),
    )


def _is_readable(pattern: str) -> bool:
    try:
        SchemaValidator(core_schema.str_schema(pattern=pattern))
    except SchemaError:
        return False
    return True


def _integer(schema: JsonObject) -> CoreSchema:
    step = _step(schema)
    return core_schema.int_schema(
        ge=_rounded(math.ceil, schema.get("minimum")),
        le=_rounded(math.floor, schema.get("maximum")),
        gt=_rounded(math.floor, schema.get("exclusiveMinimum")),
        lt=_rounded(math.ceil, schema.get("exclusiveMaximum")),
        multiple_of=step if isinstance(step, int) else None,
    )


def _number(schema: JsonObject) -> CoreSchema:
    core = core_schema.float_schema(
        ge=_bound(schema.get("minimum")),
        le=_bound(schema.get("maximum")),
        gt=_bound(schema.get("exclusiveMinimum")),
        lt=_bound(schema.get("exclusiveMaximum")),
        multiple_of=_step(schema),
        allow_inf_nan=False,
    )
    return core_schema.no_info_wrap_validator_function(_as_it_was, core)


def _as_it_was(value: Any, check: core_schema.ValidatorFunctionWrapHandler) -> Any:
    """Keep an integer one: 3 would be sent as 3.0."""
    checked = check(value)
    return value if type(value) is int else checked


def _rounded(to: Callable[[float], int], bound: Json) -> int | None:
    number = _bound(bound)
    return None if number is None else to(number)


def _bound(bound: Json) -> float | None:
    is_number = isinstance(bound, int | float) and not isinstance(bound, bool)
    return bound if is_number and math.isfinite(bound) else None


def _step(schema: JsonObject) -> float | None:
    step = _bound(schema.get("multipleOf"))
    return step if step is not None and step > 0 else None


def _count(schema: JsonObject, key: str) -> int | None:
    value = schema.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


_KINDS: dict[str, Callable[[JsonObject], CoreSchema]] = {
    "object": _object,
    "array": _array,
    "string": _string,
    "integer": _integer,
    "number": _number,
    "boolean": lambda _: core_schema.bool_schema(),
    "null": lambda _: core_schema.none_schema(),
}
