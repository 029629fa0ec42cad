"""The splits of the shop: rows made once from a fixed seed, the same on every machine.

It does not know the environment class.

- `train`: the training templates.
- `heldout`: the same templates over worlds whose full names never occur in training.
- `heldout_templates`: pairs of selector and effect never trained on, over such worlds.
"""

from __future__ import annotations

from agentgrpo.envs.draw import Draw
from agentgrpo.envs.shop.templates import HELDOUT_TEMPLATES, TRAIN_TEMPLATES
from agentgrpo.envs.shop.world import HELDOUT_SEED, load_world, make_world

SHOP_DRAW = Draw(
    plan={
        "train": (TRAIN_TEMPLATES, {1: 250, 2: 250, 3: 250}),
        "heldout": (TRAIN_TEMPLATES, {1: 30, 2: 30, 3: 30}),
        "heldout_templates": (HELDOUT_TEMPLATES, {1: 36, 2: 36, 3: 36}),
    },
    make_world=make_world,
    load_world=load_world,
    heldout=HELDOUT_SEED,
    seeds=1000,
)
SHOP_ROWS = SHOP_DRAW.ship("shop")
