"""The splits of the workspace: rows made once from fixed seeds, the same on every machine.

It does not know the environment class.

- `train`: the training templates.
- `heldout`: the same templates over worlds whose full names and titles never occur in training.
- `heldout_templates`: combinations of selector, effect and manner never trained on, over such worlds.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from functools import cache

from agentgrpo.envs.workspace.parts import Template
from agentgrpo.envs.workspace.templates import HELDOUT_TEMPLATES, TEMPLATES, TRAIN_TEMPLATES
from agentgrpo.envs.workspace.world import HELDOUT_SEED, make_world
from agentgrpo.errors import TaskError, nearest
from agentgrpo.types import JsonObject

SPLITS = ("train", "heldout", "heldout_templates")
LEVELS = (1, 2, 3)
_PLAN: dict[str, tuple[tuple[Template, ...], dict[int, int]]] = {  # split: templates, rows of each by level
    "train": (TRAIN_TEMPLATES, {1: 250, 2: 80, 3: 80}),
    "heldout": (TRAIN_TEMPLATES, {1: 50, 2: 15, 3: 15}),
    "heldout_templates": (HELDOUT_TEMPLATES, {2: 20, 3: 20}),
}
_SEEDS_PER_TEMPLATE = 1000


def workspace_tasks(
    split: str, *, templates: Sequence[str] | None = None, levels: Sequence[int] | None = None
) -> tuple[JsonObject, ...]:
    """Return the rows of a split, templates taking turns, optionally of some templates or levels only.

    Raises:
        TaskError: The split or a template is unknown, or no row is left.
    """
    if split not in _PLAN:
        raise TaskError(f"the workspace has no split '{split}'. It has: {', '.join(SPLITS)}.{nearest(split, SPLITS)}")
    unknown = [name for name in templates or () if name not in TEMPLATES]
    if unknown:
        known = ", ".join(TEMPLATES)
        raise TaskError(
            f"the workspace has no template '{unknown[0]}'.{nearest(unknown[0], TEMPLATES)} It has: {known}."
        )
    columns = [
        _rows(split, template.name)
        for template in _PLAN[split][0]
        if (templates is None or template.name in templates) and (levels is None or template.level in levels)
    ]
    if not columns and split == "train":
        raise TaskError(f"no training row has templates={templates} and levels={levels}. Levels are 1, 2 and 3.")
    rounds = itertools.zip_longest(*columns)
    return tuple(row for group in rounds for row in group if row is not None)


@cache
def _rows(split: str, name: str) -> tuple[JsonObject, ...]:
    template, count = TEMPLATES[name], _PLAN[split][1][TEMPLATES[name].level]
    start = list(TEMPLATES).index(name) * _SEEDS_PER_TEMPLATE + (0 if split == "train" else HELDOUT_SEED)
    rows: list[JsonObject] = []
    for seed in itertools.count(start):
        found = template.sample(make_world(seed), random.Random(f"{name}-{seed}"))
        if found is not None:
            task_id = f"{split}-{name}-{len(rows):03d}"
            rows.append({"task_id": task_id, "template": name, "level": template.level, "seed": seed} | found)
        if len(rows) == count:
            return tuple(rows)
    raise AssertionError("unreachable: seeds do not end")
