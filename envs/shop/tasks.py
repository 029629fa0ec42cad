"""The splits of the shop: rows made once from a fixed seed, the same on every machine.

It does not know the environment class.

- `train`: the training templates.
- `heldout`: the same templates over worlds whose full names never occur in training.
- `heldout_templates`: pairs of selector and effect never trained on, over such worlds.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from functools import cache

from agentgrpo.envs.shop.templates import HELDOUT_TEMPLATES, TEMPLATES, TRAIN_TEMPLATES, Template
from agentgrpo.envs.shop.world import HELDOUT_SEED, make_world
from agentgrpo.errors import TaskError, nearest
from agentgrpo.types import JsonObject

SPLITS = ("train", "heldout", "heldout_templates")
_PLAN: dict[str, tuple[tuple[Template, ...], int]] = {  # split: templates, rows of each
    "train": (TRAIN_TEMPLATES, 250),
    "heldout": (TRAIN_TEMPLATES, 30),
    "heldout_templates": (HELDOUT_TEMPLATES, 36),
}
_SEEDS_PER_TEMPLATE = 1000


def shop_tasks(
    split: str, *, templates: Sequence[str] | None = None, levels: Sequence[int] | None = None
) -> tuple[JsonObject, ...]:
    """Return the rows of a split, templates taking turns, optionally of some templates or levels only.

    Raises:
        TaskError: The split or a template is unknown, or no row is left.
    """
    if split not in _PLAN:
        raise TaskError(f"the shop has no split '{split}'. It has: {', '.join(SPLITS)}.{nearest(split, SPLITS)}")
    unknown = [name for name in templates or () if name not in TEMPLATES]
    if unknown:
        known = ", ".join(TEMPLATES)
        raise TaskError(f"the shop has no template '{unknown[0]}'.{nearest(unknown[0], TEMPLATES)} It has: {known}.")
    rows = tuple(
        row
        for row in _rows(split)
        if (templates is None or row["template"] in templates) and (levels is None or row["level"] in levels)
    )
    if not rows and split == "train":
        raise TaskError(f"no training row has templates={templates} and levels={levels}. Levels are 1, 2 and 3.")
    return rows


@cache
def _rows(split: str) -> tuple[JsonObject, ...]:
    templates, count = _PLAN[split]
    columns = [_template_rows(split, template, count) for template in templates]
    return tuple(itertools.chain.from_iterable(zip(*columns, strict=True)))


def _template_rows(split: str, template: Template, count: int) -> list[JsonObject]:
    start = list(TEMPLATES).index(template.name) * _SEEDS_PER_TEMPLATE + (0 if split == "train" else HELDOUT_SEED)
    rows: list[JsonObject] = []
    for seed in itertools.count(start):
        found = template.sample(make_world(seed), random.Random(f"{template.name}-{seed}"))
        if found is not None:
            task_id = f"{split}-{template.name}-{len(rows):03d}"
            rows.append({"task_id": task_id, "template": template.name, "level": template.level, "seed": seed} | found)
        if len(rows) == count:
            return rows
    raise AssertionError("unreachable: seeds do not end")
