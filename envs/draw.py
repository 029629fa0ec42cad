"""Drawing task rows from templates over worlds: from fixed seeds, the same on every machine.

It does not know any template or world, nor the environment class.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

from agentgrpo.envs.rows import ShippedRows
from agentgrpo.envs.templates import Template
from agentgrpo.types import JsonObject

Plan: TypeAlias = Mapping[
    str, tuple[tuple[Template, ...], Mapping[int, int]]
]  # split: templates, rows of each by level


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """Rows drawn from templates over worlds of consecutive seeds, each template's from seeds of its own.

    Worlds from the seed `heldout` on are those of the held-out splits.
    """

    plan: Plan
    make_world: Callable[[int], Any]
    load_world: Callable[[Any, Any], None]  # into an empty app
    heldout: int
    seeds: int  # of each template, at most

    @property
    def templates(self) -> dict[str, Template]:
        """All templates by name, those to train on first."""
        return {template.name: template for templates, _ in self.plan.values() for template in templates}

    def ship(self, env: str) -> ShippedRows:
        """Return the rows of an environment, made once; templates take turns."""
        return ShippedRows(env=env, templates={t.name: t.tools for t in self.templates.values()}, make=cache(self.rows))

    def rows(self, split: str) -> tuple[JsonObject, ...]:
        """Return the rows of a split, templates taking turns."""
        templates, counts = self.plan[split]
        columns = [self._column(split, template, counts[template.level]) for template in templates]
        return tuple(row for turn in itertools.zip_longest(*columns) for row in turn if row is not None)

    def _column(self, split: str, template: Template, count: int) -> list[JsonObject]:
        first = list(self.templates).index(template.name) * self.seeds + (0 if split == "train" else self.heldout)
        rows: list[JsonObject] = []
        for seed in itertools.count(first):
            found = template.sample(self.make_world(seed), random.Random(f"{template.name}-{seed}"))
            if found is not None:
                about = {"template": template.name, "level": template.level, "seed": seed}
                rows.append({"task_id": f"{split}-{template.name}-{len(rows):03d}"} | about | found)
            if len(rows) == count:
                return rows
        raise AssertionError("unreachable: seeds do not end")
