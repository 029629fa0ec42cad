"""Two values that differ, as a few lines a person can read: the place, and what stands there on either side."""

from __future__ import annotations

import json
from difflib import unified_diff
from itertools import zip_longest
from typing import Any

from agentgrpo.types import Json

MOST_LINES = 16
_WIDTH, _BEFORE = 160, 40  # characters of a text that are shown, and of what both have before they part
_ABSENT = object()


def difference(expected: Json, got: Json) -> list[str]:
    """Return the lines; the first names the place where it is inside of the values."""
    path, known, found = _descend(expected, got, "")
    head = [f"at {path}"] if path else []
    if isinstance(known, str) and isinstance(found, str) and "\n" in known + found:
        lines = list(unified_diff(known.split("\n"), found.split("\n"), "expected", "got", lineterm="", n=1))
        more = [f"... {len(lines) - MOST_LINES} lines more"] if len(lines) > MOST_LINES else []
        return [*head, *(line[:_WIDTH] for line in lines[:MOST_LINES]), *more]
    before = _shared(known, found)
    return [*head, f"expected  {_shown(known, before)}", f"got       {_shown(found, before)}"]


def _descend(one: Any, other: Any, path: str) -> tuple[str, Any, Any]:
    """Return the innermost place where two values differ, and what each has there."""
    if isinstance(one, str) and isinstance(other, str):
        parsed = _parsed(one), _parsed(other)
        if parsed[0] is not None and parsed[1] is not None and parsed[0] != parsed[1]:
            return _descend(parsed[0], parsed[1], path)
    elif isinstance(one, dict) and isinstance(other, dict):
        for key in dict.fromkeys([*one, *other]):
            a, b = one.get(key, _ABSENT), other.get(key, _ABSENT)
            if a is _ABSENT or b is _ABSENT or a != b:
                return _descend(a, b, f"{path}/{key}")
    elif isinstance(one, list) and isinstance(other, list):
        for index, (a, b) in enumerate(zip_longest(one, other, fillvalue=_ABSENT)):
            if a is _ABSENT or b is _ABSENT or a != b:
                return _descend(a, b, f"{path}/{index}")
    return path, one, other


def _parsed(text: str) -> Any:
    """Return what a text holds as JSON, when that is something with parts."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict | list) else None


def _shared(one: Any, other: Any) -> int:
    """Return how many characters two texts have in common at their beginning."""
    if not isinstance(one, str) or not isinstance(other, str):
        return 0
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _shown(value: Any, before: int) -> str:
    if value is _ABSENT:
        return "(nothing)"
    if not isinstance(value, str):
        value = json.dumps(value, ensure_ascii=False, default=str)
    start = max(0, before - _BEFORE)
    text = value[start : start + _WIDTH]
    return f"{'…' if start else ''}{text}{'…' if len(value) > start + _WIDTH else ''}" if value else '""'
