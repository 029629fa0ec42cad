"""Episodes of one task side by side: where they first do different things, and who does the same as whom.

Pure functions over actions; they know neither rows nor how columns are drawn.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentgrpo.types import JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """`branches[e][k]`: the way episode e has gone up to turn k; 0 is the most common, the same number the same way.

    `divergence` is the first turn at which not all do the same, None when all are equal throughout.
    """

    branches: tuple[tuple[int, ...], ...]
    divergence: int | None


def canonical(action: Mapping[str, Any]) -> str:
    """Return what an action does, without what says nothing of it: ids of calls, the order of arguments."""
    calls = [[call.get("name"), call.get("arguments", call.get("raw"))] for call in action["tool_calls"]]
    return json.dumps([str(action.get("content", "")).strip(), calls], sort_keys=True, default=str)


def align(episodes: Sequence[Iterable[JsonObject]]) -> Alignment:
    """Compare episodes turn by turn; one that has ended differs from one that goes on.

    Args:
        episodes: The actions of each.
    """
    paths = [[canonical(action) for action in actions] for actions in episodes]
    ways: list[list[int]] = [[] for _ in paths]
    divergence = None
    for turn in range(max(map(len, paths), default=0)):
        prefixes = [tuple(path[: turn + 1]) for path in paths]
        there = [prefix for prefix, path in zip(prefixes, paths, strict=True) if len(path) > turn]
        order = {prefix: place for place, (prefix, _) in enumerate(Counter(there).most_common())}
        for way, prefix, path in zip(ways, prefixes, paths, strict=True):
            if len(path) > turn:
                way.append(order[prefix])
        if divergence is None and len(set(prefixes)) > 1:
            divergence = turn
    return Alignment(branches=tuple(map(tuple, ways)), divergence=divergence)
