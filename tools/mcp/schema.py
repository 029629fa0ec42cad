"""The JSON schemas of MCP tools: without references, bounded, and as a check of arguments.

It does not know whose they are. Nothing is fetched, and no pattern of theirs is run: one can take forever, and holds
Python's lock meanwhile.

A server may send any JSON Schema at any moment of a run, so nothing is refused that can be cut, and `jsonschema`, which
comes with the SDK, checks all of the language and changes no argument. OpenAPI has other dialects, and an author who
can leave an operation out: it has readers of its own, `tools.openapi.schemas` and `.arguments`.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

from agentgrpo.jsonpointer import parts
from agentgrpo.tooling import one_line
from agentgrpo.types import Json, JsonObject

MAX_NODES = 5000
MAX_DEPTH = 24
_MAX_PROBLEMS = 5
_MAPS = ("properties", "patternProperties", "dependentSchemas")  # of names, which may look like keywords
_DATA = ("default", "const", "enum", "examples", "required", "dependentRequired")
_DROPPED = ("title", "definitions")
_PATTERNS = ("pattern", "patternProperties", "propertyNames")


def flat(schema: JsonObject) -> JsonObject:
    """Return a schema of an object without references and titles: small models read references badly.

    What contains itself, lies deeper than `MAX_DEPTH`, or comes after `MAX_NODES` parts, becomes `{}`, which any value
    fits; so does a reference out of the document. Whoever takes the arguments has to check them there.
    """
    written = _Writer(schema).write(schema, (), 0)
    plain = written if isinstance(written, dict) else {}
    return {"type": "object", "properties": plain.pop("properties", {}), **plain} | {"type": "object"}


class _Writer:
    def __init__(self, root: JsonObject) -> None:
        self._root, self._room = root, MAX_NODES

    def write(self, schema: Json, path: tuple[str, ...], depth: int) -> Json:
        """Write out a schema; `path` holds the references it was reached by."""
        self._room -= 1
        if self._room < 0 or depth > MAX_DEPTH:
            return {}
        if isinstance(schema, list):
            return [self.write(item, path, depth + 1) for item in schema]
        if not isinstance(schema, dict):
            return schema
        reference = schema.get("$ref")
        target = self._target(reference, path)
        written: JsonObject = {}
        if isinstance(target, dict):
            written = self.write(target, (*path, str(reference)), depth + 1)
        for key, value in schema.items():
            if key in _DATA:
                written[key] = value
            elif key in _MAPS and isinstance(value, dict):
                written[key] = {name: self.write(item, path, depth + 1) for name, item in value.items()}
            elif key not in _DROPPED and not key.startswith("$"):
                written[key] = self.write(value, path, depth + 1)
        return written

    def _target(self, reference: Json, path: tuple[str, ...]) -> Json:
        if not isinstance(reference, str) or not reference.startswith("#") or reference in path:
            return None
        found: Json = self._root
        for part in parts(reference):
            found = found.get(part) if isinstance(found, dict) else None
        return found


def checker(schema: JsonObject) -> Callable[[JsonObject], dict[str, Any]]:
    """Return a function that gives arguments back, or raises ValueError with what is wrong, in one line.

    Args:
        schema: What `flat` returned.

    Raises:
        ValueError: it is no valid JSON schema.
    """
    import jsonschema

    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise ValueError(one_line(error.message)) from error
    validator = jsonschema.Draft202012Validator(_without_patterns(schema))

    def check(arguments: JsonObject) -> dict[str, Any]:
        problems = [_problem(error) for error in islice(validator.iter_errors(arguments), _MAX_PROBLEMS)]
        if problems:
            raise ValueError("; ".join(problems))
        return arguments

    return check


def _problem(error: Any) -> str:
    place = ".".join(map(str, error.absolute_path))
    message = one_line(error.message, 120)
    return f"argument '{one_line(place, 40)}': {message}" if place else message


def _without_patterns(schema: Json) -> Json:
    if isinstance(schema, list):
        return [_without_patterns(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    # Names that fit a pattern are no additional ones: without the patterns nobody can tell.
    dropped = (*_PATTERNS, *(("additionalProperties",) if "patternProperties" in schema else ()))
    kept: JsonObject = {}
    for key, value in schema.items():
        if key in _MAPS and isinstance(value, dict):
            if key not in dropped:
                kept[key] = {name: _without_patterns(item) for name, item in value.items()}
        elif key in _DATA:
            kept[key] = value
        elif key not in dropped:
            kept[key] = _without_patterns(value)
    return kept
