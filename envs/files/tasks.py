"""The splits of the files environment: rows made once from a fixed seed, the same on every machine.

It does not know the environment class.

- `train`: the training templates.
- `heldout`: the same templates over worlds whose paths are made of pairs of names that never occur in training.
- `heldout_templates`: pairs of selector and effect never trained on, over such worlds.
"""

from __future__ import annotations

from agentgrpo.envs.draw import Draw
from agentgrpo.envs.files.templates import HELDOUT_TEMPLATES, TRAIN_TEMPLATES
from agentgrpo.envs.files.world import HELDOUT_SEED, load_world, make_world

FILES_DRAW = Draw(
    plan={
        "train": (TRAIN_TEMPLATES, {1: 150, 2: 150, 3: 150}),
        "heldout": (TRAIN_TEMPLATES, {1: 40, 2: 40, 3: 40}),
        "heldout_templates": (HELDOUT_TEMPLATES, {1: 40, 2: 40, 3: 40}),
    },
    make_world=make_world,
    load_world=load_world,
    heldout=HELDOUT_SEED,
    seeds=2000,
)
FILES_ROWS = FILES_DRAW.ship("files")
