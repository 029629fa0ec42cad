"""Arguments laid out as a request: path, query, headers and body, in the styles of OpenAPI's parameters.

It expects checked arguments and does not send.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from urllib.parse import quote

from agentgrpo.errors import ToolError
from agentgrpo.tooling import one_line
from agentgrpo.tools.openapi.operation import Operation, Parameter
from agentgrpo.types import Json, JsonObject

_SLASH = re.compile(r"[/\\]")
_SEPARATORS = {"spaceDelimited": " ", "pipeDelimited": "|"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What `HttpClient.request` takes."""

    path: str
    query: tuple[tuple[str, str], ...]
    headers: dict[str, str]
    body: Json


def lay_out(operation: Operation, arguments: JsonObject) -> Layout:
    """Return the request that arguments make of an operation; an optional argument that is null is left out.

    Raises:
        ToolError: a value cannot stand where it has to.
    """
    path, query, headers = operation.path, list[tuple[str, str]](), dict[str, str]()
    for parameter in operation.parameters:
        value = arguments.get(parameter.argument)
        if value is None and not parameter.is_required:
            continue
        if parameter.place == "path":
            path = path.replace(f"{{{parameter.name}}}", _segment(parameter, value))
        elif parameter.place == "query":
            query += _pairs(parameter, value)
        else:
            headers[parameter.name] = _joined(parameter, value)
    return Layout(path=path, query=tuple(query), headers=headers, body=_body(operation, arguments))


def _segment(parameter: Parameter, value: Json) -> str:
    text = _joined(parameter, value)
    # Encoded slashes keep a value in its place, but many a proxy decodes them before it looks for dots.
    if not text or any(part in (".", "..") for part in _SLASH.split(text)):
        told = f"got {one_line(text, 60)!r}, which cannot stand in a path"
        raise ToolError(f"argument '{parameter.argument}': {told}")
    return quote(text, safe="", errors="replace")


def _joined(parameter: Parameter, value: Json) -> str:
    """Return a value in the style `simple`."""
    if parameter.is_json:
        return json.dumps(value)
    if isinstance(value, dict):
        glue = "=" if parameter.explode else ","
        return ",".join(f"{key}{glue}{_text(inner)}" for key, inner in value.items())
    return ",".join(map(_text, value)) if isinstance(value, list) else _text(value)


def _pairs(parameter: Parameter, value: Json) -> list[tuple[str, str]]:
    name = parameter.name
    if parameter.is_json:
        return [(name, json.dumps(value))]
    if isinstance(value, list):
        texts = list(map(_text, value))
        separator = _SEPARATORS.get(parameter.style, ",")
        return [(name, text) for text in texts] if parameter.explode else [(name, separator.join(texts))]
    if not isinstance(value, dict):
        return [(name, _text(value))]
    if parameter.style == "deepObject":
        return [(f"{name}[{key}]", _text(inner)) for key, inner in value.items()]
    if parameter.explode:
        return [(key, _text(inner)) for key, inner in value.items()]
    return [(name, ",".join(f"{key},{_text(inner)}" for key, inner in value.items()))]


def _body(operation: Operation, arguments: JsonObject) -> Json:
    body = operation.body
    if body is None:
        return None
    if body.argument is not None:
        return arguments.get(body.argument)
    spread = {name: arguments[name] for name in body.schema["properties"] if name in arguments}
    return spread if spread or body.is_required else None


def _text(value: Json) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value)
