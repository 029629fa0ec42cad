"""What changed between two JSON states, as JSON Patch operations. Pure: it does not know where states come from.

The operations are RFC 6902's; a member "old", which its readers ignore, says what a replaced value was.
"""

from __future__ import annotations

from collections.abc import Iterator

from agentgrpo.jsonpointer import below
from agentgrpo.types import Json, JsonObject


def patch(before: Json, after: Json, path: str = "") -> list[JsonObject]:
    """Return the operations that lead from one state to another; a list that changed is replaced as a whole.

    Args:
        before: JSON data.
        after: The same later.
        path: The JSON Pointer (RFC 6901) of both.
    """
    return list(_operations(before, after, path))


def _operations(before: Json, after: Json, path: str) -> Iterator[JsonObject]:
    if not (isinstance(before, dict) and isinstance(after, dict)):
        if before != after or type(before) is not type(after):
            yield {"op": "replace", "path": path, "old": before, "value": after}
        return
    for key in sorted(before.keys() | after.keys(), key=str):
        place = below(path, key)
        if key not in after:
            yield {"op": "remove", "path": place}
        elif key not in before:
            yield {"op": "add", "path": place, "value": after[key]}
        else:
            yield from _operations(before[key], after[key], place)
