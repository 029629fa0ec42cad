"""What changed between two states, and which of it nobody asked for. Places are JSON Pointers (RFC 6901).

It does not know what a change means: whether the right value is there is a goal check's to say.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

from agentgrpo.errors import EnvError
from agentgrpo.jsonpointer import below, parts
from agentgrpo.types import Json, JsonObject

Changes: TypeAlias = Iterable[str | JsonObject]  # JSON Pointers, or JSON Patch operations


def value_at(state: Json, pointer: str) -> Json:
    """Return what a JSON Pointer leads to; None where nothing is there.

    Raises:
        EnvError: it is no JSON Pointer.
    """
    for part in _parts(pointer):
        if isinstance(state, dict):
            state = state.get(part)
        elif isinstance(state, list) and part.isascii() and part.isdigit():
            state = state[int(part)] if int(part) < len(state) else None
        else:
            return None
    return state


def changed_paths(before: Json, after: Json) -> tuple[str, ...]:
    """Return the places where two states differ, each as deep as can be said; a list counts as a whole."""
    return tuple(_differences(before, after, ""))


def unexpected(changes: Changes, expected: Iterable[str], *, ignore: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the places that were changed outside of the expected ones, each once.

    Args:
        changes: What `changed_paths` or a `state_diff` gave; from the start of the episode to its end, so that what was
            undone is no change.
        expected: Places that may change, with everything below them; `*` stands for any one part, as in
            "/orders/*/status".
        ignore: Places that change by themselves, such as a log.
    """
    allowed = [_parts(pattern) for pattern in (*expected, *ignore)]
    paths = dict.fromkeys(change if isinstance(change, str) else str(change["path"]) for change in changes)
    return tuple(path for path in paths if not any(_covers(pattern, _parts(path)) for pattern in allowed))


def side_effects(changes: Changes, expected: Iterable[str], *, ignore: Iterable[str] = (), limit: int = 1) -> float:
    """Return how much was changed that nobody asked for, in [0, 1]: `min(1, unexpected places / limit)`.

    Args:
        changes: See `unexpected`.
        expected: Likewise.
        ignore: Likewise.
        limit: How many unexpected places count as 1. With 1 any does: harm is then bounded, but further harm is free.

    Raises:
        EnvError: the limit is below 1.
    """
    if limit < 1:
        raise EnvError(f"side_effects got limit = {limit}, expected at least 1: that many unexpected changes cost 1")
    return min(1.0, len(unexpected(changes, expected, ignore=ignore)) / limit)


def _differences(before: Json, after: Json, path: str) -> Iterator[str]:
    if not isinstance(before, dict) or not isinstance(after, dict):
        if before != after:
            yield path
        return
    for key in sorted(before.keys() | after.keys()):
        place = below(path, key)
        if key not in before or key not in after:
            yield place
        else:
            yield from _differences(before[key], after[key], place)


def _covers(pattern: list[str], path: list[str]) -> bool:
    return len(pattern) <= len(path) and all(wanted in ("*", part) for wanted, part in zip(pattern, path, strict=False))


def _parts(pointer: str) -> list[str]:
    if pointer and not pointer.startswith("/"):
        raise EnvError(f"'{pointer}' is no JSON Pointer: expected one such as /orders/o1/status")
    return parts(pointer)
