"""Calls: the JSON of one tool call, read strictly and whatever it is. Nothing here raises on what a model wrote.

What JSON would let pass and nobody should act on is refused with one line that says what was got and what was expected:
a key twice (the last would win), NaN and infinities, half a character, numbers, nesting and sizes beyond the limits.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from agentgrpo.types import BadCall, Json, JsonObject, ToolCall

MAX_BYTES = 64 * 1024  # of one call
MAX_DEPTH = 32  # of its arguments
MAX_DIGITS = 1000  # of a number

_FORM = 'expected {"name": <tool>, "arguments": {...}}'
_TOO_LARGE = f"the call is larger than {MAX_BYTES // 1024} KB; write less"
_READABLE_DEPTH = 200  # what Python's own recursion surely survives; an action wraps calls in some levels of its own
_STRINGS = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[^"\[\]{}]++', re.DOTALL)  # possessive: linear in whatever text
_HALF = re.compile("[\ud800-\udfff]")
_TOO_MUCH = 10**MAX_DIGITS
_MAX_RAW = 1000  # characters kept of a text that is too large
_KINDS = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}


@dataclass(frozen=True, slots=True)
class Flaw:
    """Why a value is refused: the kind of error and the line the model reads. It stands where the value would."""

    kind: str
    message: str


def loads(text: str) -> Json:
    """Read JSON, whatever the text; a `Flaw` stands in the place of each value that is refused, or of the whole."""
    if not _is_readable(text):
        return _TOO_DEEP
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        near = text[max(0, error.pos - 15) : error.pos + 15]
        return Flaw("invalid_json", f"not valid JSON at character {error.pos + 1}, near {near!r}: {error.msg}")


def flaw(value: Json) -> Flaw | None:
    """Return why a value is refused, or None; for what was not read here too."""
    level: list[Json] = [value]
    for _ in range(MAX_DEPTH + 1):
        found = next(filter(None, map(_flaw_of, level)), None)
        if found is not None:
            return found
        level = [inner for item in level for inner in _inside(item)]
        if not level:
            return None
    return _TOO_DEEP


def read_call(text: str, call_id: str, *, is_closed: bool = True) -> ToolCall | BadCall:
    """Read the JSON text of one call; a call cut off before its end is not executed, whatever it says so far."""
    if len(text) > MAX_BYTES or len(text.encode("utf-8", "replace")) > MAX_BYTES:
        return bad_call(call_id, text, "too_large", _TOO_LARGE)
    text = text.strip()
    if not is_closed:
        return bad_call(call_id, text, "unclosed", "the call was cut off before its end; write it again, shorter")
    return check_call(loads(text), call_id, text)


def check_call(value: Json, call_id: str, raw: str) -> ToolCall | BadCall:
    """Return the call a JSON value stands for; `raw` is the text it was read from."""
    if isinstance(value, Flaw):
        form = f"; {_FORM}" if value.kind == "invalid_json" else ""
        return bad_call(call_id, raw, value.kind, value.message + form)
    if not isinstance(value, dict):
        return bad_call(call_id, raw, "malformed", f"got {kind_of(value)}; {_FORM}")
    return make_call(value.get("name"), value.get("arguments", {}), call_id, raw)


def make_call(name: Json, arguments: Json, call_id: str, raw: str) -> ToolCall | BadCall:
    """Return a call if its parts are what they must be; arguments may also come as the text of a JSON object."""
    found = flaw(name)
    if found is not None:
        return bad_call(call_id, raw, found.kind, f"in the name: {found.message}")
    if not isinstance(name, str) or not name:
        return bad_call(call_id, raw, "missing_name", f"the name is {kind_of(name)}; {_FORM}")
    if isinstance(arguments, str):
        read = loads(arguments)
        arguments = arguments if isinstance(read, Flaw) and read.kind == "invalid_json" else read
    # Raw text has at least as many characters as the arguments in it, so this is rarely measured.
    if len(raw) > MAX_BYTES // 4 and _size(arguments) > MAX_BYTES:
        return bad_call(call_id, raw, "too_large", _TOO_LARGE, name)
    found = flaw(arguments)
    if found is not None:
        return bad_call(call_id, raw, found.kind, f"in the arguments: {found.message}", name)
    if not isinstance(arguments, dict):
        told = f"arguments: got {kind_of(arguments)}, expected an object"
        return bad_call(call_id, raw, "invalid_arguments", told, name)
    return ToolCall(id=call_id, name=name, arguments=arguments)


def bad_call(call_id: str, raw: str, kind: str, message: str, name: str | None = None) -> BadCall:
    """Return a call that is not executed, with the line the model reads."""
    raw = raw if len(raw) <= MAX_BYTES else f"{raw[:_MAX_RAW]}..."
    return BadCall(id=call_id, raw=raw, error_type=kind, error_message=message, name=name)


def error_type(content: str) -> str:
    """Return the kind of an error from what the model was told; one that is not of our form is the tool's own."""
    try:
        return str(json.loads(content)["error"]["type"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return "tool_error"


def kind_of(value: Json) -> str:
    """Return what a JSON value is, in words."""
    if isinstance(value, str) and not value:
        return "empty"
    return _KINDS.get(type(value), "a number")


def _size(value: Json) -> int:
    return len(json.dumps(value, ensure_ascii=False, default=repr).encode("utf-8", "replace"))


def _is_readable(text: str) -> bool:
    depth = 0
    for bracket in _STRINGS.sub("", text):
        depth += 1 if bracket in "[{" else -1
        if depth > _READABLE_DEPTH:
            return False
    return True


def _flaw_of(value: Json) -> Flaw | None:
    """Return what is wrong with a value itself, not with what is inside."""
    if isinstance(value, Flaw):
        return value
    if isinstance(value, str):
        return None if value.isascii() or not _HALF.search(value) else _HALF_CHARACTER
    if isinstance(value, float):
        return None if math.isfinite(value) else _not_finite(str(value))
    if isinstance(value, int):
        return None if -_TOO_MUCH < value < _TOO_MUCH else _TOO_LONG
    return None


def _inside(value: Json) -> Iterable[Json]:
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    return value if isinstance(value, list | tuple) else ()


def _object(pairs: list[tuple[str, Json]]) -> JsonObject | Flaw:
    read = dict(pairs)
    if len(read) == len(pairs):
        return read
    seen: set[str] = set()
    twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
    return Flaw("duplicate_key", f"key {twice[:40]!r} is there twice; expected every key once")


def _integer(digits: str) -> int | Flaw:
    return int(digits) if len(digits.lstrip("-")) <= MAX_DIGITS else _TOO_LONG


def _float(digits: str) -> float | Flaw:
    value = float(digits)
    return value if math.isfinite(value) else _not_finite(digits)


def _not_finite(text: str) -> Flaw:
    return Flaw("not_finite", f"got the number {text[:20]}; expected a finite one")


_TOO_DEEP = Flaw("too_deep", f"nested deeper than {MAX_DEPTH} levels; write it flatter")
_TOO_LONG = Flaw("number_too_long", f"got a number of more than {MAX_DIGITS} digits; expected a shorter one")
_HALF_CHARACTER = Flaw("half_character", "text holds half a character (a lone surrogate); expected whole ones")
_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=_float, parse_constant=_not_finite
)
