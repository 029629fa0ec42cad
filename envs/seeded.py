"""Tasks that are seeds: the episodes of a group share their start, and no start of a training task is held out.

It does not know what a seed makes, only whether two make the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import count

from agentgrpo.seeds import derive_seed
from agentgrpo.types import JsonObject

_SHARE = 6  # one start of so many is held out
_FEWEST = 30  # distinct starts, below which they are not split
_PATIENCE = 3000  # seeds in a row that give nothing new, after which there is nothing new


def seeded_tasks(
    start_of: Callable[[int], str], train: int, heldout: int, seeds: Iterable[int] | None = None
) -> dict[str, list[JsonObject]]:
    """Return the rows of `train` and `heldout`: every start once, none in both.

    An environment with few starts (a fixed map) has them all in both splits, as often as rows are wanted: then only
    the noise of its steps differs, if it has any.

    Args:
        start_of: Says what a seed starts with; equal texts are the same start.
        train: Most rows to train on.
        heldout: Most rows to hold out.
        seeds: What to choose from; None means all from 0 on.
    """
    wanted = {"train": train, "heldout": heldout}
    found: dict[str, list[int]] = {"train": [], "heldout": []}
    seen = 0
    for seed, start in _distinct(start_of, count() if seeds is None else seeds):
        seen += 1
        split = "train" if derive_seed("start", start) % _SHARE else "heldout"
        if len(found[split]) < wanted[split]:
            found[split].append(seed)
        if all(len(found[name]) >= most for name, most in wanted.items()):
            break
    if seen < _FEWEST:
        found = {"train": list(range(train)), "heldout": list(range(train, train + heldout))}
    return {split: [_row(split, seed) for seed in seeds] for split, seeds in found.items()}


def _row(split: str, seed: int) -> JsonObject:
    return {"task_id": f"{split}-{seed}", "seed": seed}


def _distinct(start_of: Callable[[int], str], seeds: Iterable[int]) -> Iterator[tuple[int, str]]:
    seen: set[str] = set()
    idle = 0
    for seed in seeds:
        start = start_of(seed)
        idle = idle + 1 if start in seen else 0
        if idle > _PATIENCE:
            return
        if not idle:
            seen.add(start)
            yield seed, start
