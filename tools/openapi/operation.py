"""One operation of an OpenAPI document: its arguments as one flat object, and where in the request each of them goes.

It does not send and does not check: `wire` lays arguments out, `arguments` checks them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

from agentgrpo.errors import EnvError
from agentgrpo.tooling import one_line
from agentgrpo.tools.http.order import RESERVED
from agentgrpo.tools.openapi.document import Found, resolved
from agentgrpo.tools.openapi.schemas import MAX_DESCRIPTION, flatten
from agentgrpo.types import Json, JsonObject

Place: TypeAlias = Literal["path", "query", "header"]
MAX_ABOUT = 400  # characters of an operation's description
# OpenAPI says of these three that a parameter has no say in them.
_IGNORED = {"accept", "content-type", "authorization"}
_STYLES = {
    "path": ("simple",),
    "query": ("form", "spaceDelimited", "pipeDelimited", "deepObject"),
    "header": ("simple",),
}
_SLOT = re.compile(r"{([^{}]*)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A value in the path, the query or a header. `argument` is what the model calls it."""

    name: str
    argument: str
    place: Place
    style: str
    explode: bool
    is_json: bool
    is_required: bool
    schema: JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """A JSON body: one argument, or (`argument` is None) an object whose properties are arguments of their own."""

    argument: str | None
    is_required: bool
    schema: JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What a tool needs to know of an operation."""

    method: str
    path: str
    about: str
    parameters: tuple[Parameter, ...]
    body: Body | None

    @property
    def schema(self) -> JsonObject:
        """The schema of all arguments."""
        properties = {parameter.argument: parameter.schema for parameter in self.parameters}
        required = [parameter.argument for parameter in self.parameters if parameter.is_required]
        if self.body is not None and self.body.argument is not None:
            properties[self.body.argument] = self.body.schema
            required += [self.body.argument] if self.body.is_required else []
        elif self.body is not None:
            properties |= self.body.schema["properties"]
            required += self.body.schema.get("required", [])
        return {"type": "object", "properties": properties} | ({"required": required} if required else {})


def read_operation(document: JsonObject, found: Found, *, reserved: Sequence[str] = ()) -> Operation:
    """Return an operation.

    Args:
        document: The whole.
        found: The operation as it stands there.
        reserved: Headers, in lower case, that a parameter must not set.

    Raises:
        EnvError: it cannot be a tool; the message says why.
    """
    try:
        parameters = _parameters(document, found, {*reserved, *RESERVED})
        taken = {parameter.argument for parameter in parameters}
        return Operation(
            method=found.method,
            path=found.path,
            about=_about(found.raw),
            parameters=parameters,
            body=_body(document, found.raw, taken),
        )
    except EnvError as error:
        raise EnvError(f"operation {found.key}: {error}") from error


def _parameters(document: JsonObject, found: Found, reserved: set[str]) -> tuple[Parameter, ...]:
    """Return the parameters of the path and of the operation, whose own come before those of the path."""
    merged: dict[tuple[str, str], JsonObject] = {}
    for holder in (found.item, found.raw):
        for value in holder.get("parameters", ()):
            raw = resolved(document, value)
            merged[str(raw.get("in")), str(raw.get("name"))] = raw
    sent = {key: raw for key, raw in merged.items() if _is_sent(key, raw, reserved)}
    for slot in _SLOT.findall(found.path):
        if ("path", slot) not in sent:
            raise EnvError(f"the path {found.path} has {{{slot}}}, of which no path parameter speaks")
    uses = Counter(name for _, name in sent)
    return tuple(
        _parameter(document, raw, name if uses[name] == 1 or place == "path" else f"{place}_{name}")
        for (place, name), raw in sent.items()
    )


def _is_sent(key: tuple[str, str], raw: JsonObject, reserved: set[str]) -> bool:
    """Return whether a parameter becomes an argument; those the client or nobody sets do not."""
    place, name = key[0], key[1].lower()
    if place == "header" and name in _IGNORED:
        return False
    is_refused = place == "cookie" or (place == "header" and name in reserved)
    if is_refused and raw.get("required") is True:
        raise EnvError(f"the {place} parameter {key[1]} is required, and is nothing a model may set")
    if not is_refused and place not in _STYLES:
        raise EnvError(f"the parameter {key[1]} is in {place!r}; expected one of {', '.join(_STYLES)}")
    return not is_refused


def _parameter(document: JsonObject, raw: JsonObject, argument: str) -> Parameter:
    place = cast(Place, raw["in"])
    content = raw.get("content")
    media = _json_media(content) if isinstance(content, dict) else None
    if content is not None and media is None:
        raise EnvError(f"the parameter {argument} is sent as {', '.join(content)}; only JSON is supported")
    style = str(raw.get("style") or ("form" if place == "query" else "simple"))
    if style not in _STYLES[place]:
        raise EnvError(f"the {place} parameter {argument} has the style {style!r}, which is not supported")
    schema = flatten((media or raw).get("schema", {}), document)
    if "description" in raw:
        schema["description"] = one_line(str(raw["description"]), MAX_DESCRIPTION)
    return Parameter(
        name=str(raw["name"]),
        argument=argument,
        place=place,
        style=style,
        explode=raw["explode"] if isinstance(raw.get("explode"), bool) else style == "form",
        is_json=media is not None,
        is_required=place == "path" or raw.get("required") is True,
        schema=schema,
    )


def _body(document: JsonObject, raw: JsonObject, taken: set[str]) -> Body | None:
    if "requestBody" not in raw:
        return None
    body = resolved(document, raw["requestBody"])
    content, is_required = body.get("content", {}), body.get("required") is True
    media = _json_media(content)
    if media is None and not is_required:
        return None
    if media is None:
        raise EnvError(f"its body is {', '.join(content) or 'of no type'}; only JSON is supported")
    schema = flatten(media.get("schema", {}), document)
    if _is_spreadable(schema, taken) and (is_required or not schema.get("required")):
        return Body(argument=None, is_required=is_required, schema=schema)
    argument = "body" if "body" not in taken else "request_body"
    return Body(argument=argument, is_required=is_required, schema=schema)


def _is_spreadable(schema: JsonObject, taken: set[str]) -> bool:
    """Return whether a body's properties can stand beside the parameters: flat calls are easier to write."""
    properties = schema.get("properties")
    others = schema.keys() - {"type", "properties", "required", "description", "additionalProperties"}
    is_open = isinstance(schema.get("additionalProperties"), dict)
    if not properties or not set(schema.get("required", ())) <= properties.keys():
        return False
    return not others and not is_open and not taken & properties.keys()


def _json_media(content: JsonObject) -> JsonObject | None:
    for kind, media in content.items():
        name = kind.split(";")[0].strip().lower()
        if isinstance(media, dict) and (name in ("application/json", "*/*") or name.endswith("+json")):
            return media
    return None


def _about(raw: JsonObject) -> str:
    parts: list[Json] = [raw.get("summary"), raw.get("description")]
    texts = [" ".join(str(part).split()) for part in parts if part]
    texts = texts[1:] if len(texts) == 2 and texts[1].startswith(texts[0].rstrip(".")) else texts
    return one_line(" ".join(text if text.endswith((".", "!", "?")) else f"{text}." for text in texts), MAX_ABOUT)
