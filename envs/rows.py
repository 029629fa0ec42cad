"""The task rows an environment ships: which splits, templates and levels there are, and choosing among them.

It does not know what a template is, only its name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

from agentgrpo.errors import TaskError, nearest
from agentgrpo.types import JsonObject

T = TypeVar("T")
SPLITS = ("train", "heldout", "heldout_templates")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShippedRows:
    """The rows of one environment. `make` returns those of a split, each with a "template" and a "level"."""

    env: str
    templates: tuple[str, ...]
    make: Callable[[str], tuple[JsonObject, ...]]

    def choose(
        self, split: str, *, templates: Sequence[str] | None = None, levels: Sequence[int] | None = None
    ) -> tuple[JsonObject, ...]:
        """Return the rows of a split, optionally of some templates or levels only.

        Raises:
            TaskError: The split or a template is unknown, or no training row is left.
        """
        if split not in SPLITS:
            raise TaskError(f"{self.env} has no split '{split}'. It has: {', '.join(SPLITS)}.{nearest(split, SPLITS)}")
        for name in templates or ():
            self.require_template(name)
        return _chosen(self, split, _key(templates), _key(levels))

    def require_template(self, name: str) -> None:
        """Refuse a template that does not exist.

        Raises:
            TaskError: There is none of this name.
        """
        if name not in self.templates:
            known = ", ".join(self.templates)
            raise TaskError(f"{self.env} has no template '{name}'.{nearest(name, self.templates)} It has: {known}.")


def _key(names: Sequence[T] | None) -> tuple[T, ...] | None:
    return None if names is None else tuple(names)


@lru_cache(maxsize=64)  # environments are made by the thousand
def _chosen(
    shipped: ShippedRows, split: str, templates: tuple[str, ...] | None, levels: tuple[int, ...] | None
) -> tuple[JsonObject, ...]:
    every = shipped.make(split)
    rows = tuple(
        row
        for row in every
        if (templates is None or row["template"] in templates) and (levels is None or row["level"] in levels)
    )
    if not rows and split == "train":
        known = ", ".join(map(str, sorted({row["level"] for row in every})))
        raise TaskError(f"no training row has templates={templates} and levels={levels}. Levels are {known}.")
    return rows
