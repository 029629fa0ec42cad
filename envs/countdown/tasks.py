"""The splits of countdown: rows made once from a fixed seed, the same on every machine, every one solvable.

It does not know the environment class.

- `train`: the training kinds.
- `heldout`: the same kinds over sets of numbers that never occur in training, whatever the target.
- `heldout_templates`: kinds never trained on (other operators, another count), over such sets.
"""

from __future__ import annotations

import itertools
import random
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from agentgrpo.envs.countdown.solver import Reach, whole
from agentgrpo.envs.rows import ShippedRows
from agentgrpo.types import JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of task: a solution takes `used` of the `count` numbers, and none takes fewer."""

    name: str
    level: int
    count: int
    used: int
    operators: str
    highest: int  # number
    highest_target: int

    def sample(self, rng: random.Random, *, heldout: bool) -> JsonObject | None:
        """Return the numbers, target and operators of a task; None when the draw is no such task."""
        numbers = rng.sample(range(1, self.highest + 1), self.count)
        target = self._target(rng, numbers)
        if target is None or target > self.highest_target or is_heldout(numbers) != heldout:
            return None
        if any(value == target for _, value in Reach(numbers, self.operators).values(self.used - 1)):
            return None  # easier than it should be, or solved already
        return {"numbers": numbers, "target": target, "operators": self.operators}

    def _target(self, rng: random.Random, numbers: Sequence[int]) -> int | None:
        """Combine some of the numbers at random."""
        parts = rng.sample(numbers, self.used)
        while len(parts) > 1:
            rng.shuffle(parts)
            value = whole(rng.choice(self.operators), parts.pop(), parts.pop())
            if value is None:
                return None
            parts.append(value)
        return parts[0]


def is_heldout(numbers: Sequence[int]) -> bool:
    """Whether a set of numbers is kept for the held-out splits."""
    return zlib.crc32(repr(sorted(numbers)).encode()) % 5 == 0


def _kind(name: str, level: int, count: int, used: int, operators: str, highest: int, highest_target: int) -> Kind:
    return Kind(
        name=name,
        level=level,
        count=count,
        used=used,
        operators=operators,
        highest=highest,
        highest_target=highest_target,
    )


TRAIN_KINDS = (
    _kind("three_sum", 1, 3, 2, "+-", 25, 50),
    _kind("three_product", 1, 3, 2, "+-*", 12, 144),
    _kind("four_sum", 2, 4, 3, "+-", 25, 75),
    _kind("four_any", 2, 4, 3, "+-*/", 25, 300),
    _kind("five_sum", 3, 5, 4, "+-", 50, 200),
    _kind("five_any", 3, 5, 4, "+-*/", 50, 999),
)
HELDOUT_KINDS = (
    _kind("three_ratio", 1, 3, 2, "*/", 24, 288),
    _kind("four_product", 2, 4, 3, "+*", 25, 300),
    _kind("four_all", 2, 4, 4, "+-*/", 25, 300),
    _kind("six_any", 3, 6, 4, "+-*/", 50, 999),
)
_PLAN: dict[str, tuple[tuple[Kind, ...], tuple[int, int, int]]] = {  # split: kinds, rows of each kind by level
    "train": (TRAIN_KINDS, (3000, 1000, 500)),
    "heldout": (TRAIN_KINDS, (200, 100, 100)),
    "heldout_templates": (HELDOUT_KINDS, (60, 60, 60)),
}


@cache
def _rows(split: str) -> tuple[JsonObject, ...]:
    kinds, counts = _PLAN[split]
    placed: list[tuple[float, JsonObject]] = []  # kinds take turns, evenly however many rows they have
    for kind in kinds:
        count = counts[kind.level - 1]
        placed += [(n / count, row) for n, row in enumerate(itertools.islice(_kind_rows(split, kind), count))]
    return tuple(row for _, row in sorted(placed, key=lambda pair: pair[0]))


def _kind_rows(split: str, kind: Kind) -> Iterator[JsonObject]:
    rng, seen = random.Random(f"{split}-{kind.name}"), set[tuple[int, ...]]()
    while True:
        found = kind.sample(rng, heldout=split != "train")
        key = (*found["numbers"], found["target"]) if found else ()
        if found is not None and key not in seen:
            task_id = f"{split}-{kind.name}-{len(seen):04d}"
            yield {"task_id": task_id, "template": kind.name, "level": kind.level} | found
            seen.add(key)


COUNTDOWN_ROWS = ShippedRows(
    env="countdown", templates={kind.name: frozenset() for kind in TRAIN_KINDS + HELDOUT_KINDS}, make=_rows
)
