"""The splits of the files environment: rows made once from a fixed seed, the same on every machine.

It does not know the environment class.

- `train`: the training templates.
- `heldout`: the same templates over worlds whose paths are made of pairs of names that never occur in training.
- `heldout_templates`: pairs of selector and effect never trained on, over such worlds.
"""

from __future__ import annotations

import itertools
import random
from functools import cache

from agentgrpo.envs.files.templates import HELDOUT_TEMPLATES, TEMPLATES, TRAIN_TEMPLATES, Template
from agentgrpo.envs.files.world import HELDOUT_SEED, make_world
from agentgrpo.envs.rows import ShippedRows
from agentgrpo.types import JsonObject

_PLAN: dict[str, tuple[tuple[Template, ...], int]] = {  # split: templates, rows of each
    "train": (TRAIN_TEMPLATES, 150),
    "heldout": (TRAIN_TEMPLATES, 40),
    "heldout_templates": (HELDOUT_TEMPLATES, 40),
}
_SEEDS_PER_TEMPLATE = 2000


@cache
def _rows(split: str) -> tuple[JsonObject, ...]:
    templates, count = _PLAN[split]
    columns = [_template_rows(split, template, count) for template in templates]
    return tuple(itertools.chain.from_iterable(zip(*columns, strict=True)))  # templates take turns


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


FILES_ROWS = ShippedRows(env="files", templates=tuple(TEMPLATES), make=_rows)
