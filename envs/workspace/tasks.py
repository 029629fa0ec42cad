"""The splits of the workspace: rows made once from fixed seeds, the same on every machine.

It does not know the environment class.

- `train`: the training templates.
- `heldout`: the same templates over worlds whose full names and titles never occur in training.
- `heldout_templates`: combinations of selector, effect and manner never trained on, over such worlds.
"""

from __future__ import annotations

from agentgrpo.envs.draw import Draw
from agentgrpo.envs.workspace.templates import HELDOUT_TEMPLATES, TRAIN_TEMPLATES
from agentgrpo.envs.workspace.world import HELDOUT_SEED, load_world, make_world

WORKSPACE_DRAW = Draw(
    plan={
        "train": (TRAIN_TEMPLATES, {1: 250, 2: 80, 3: 80}),
        "heldout": (TRAIN_TEMPLATES, {1: 50, 2: 15, 3: 15}),
        "heldout_templates": (HELDOUT_TEMPLATES, {2: 20, 3: 20}),
    },
    make_world=make_world,
    load_world=load_world,
    heldout=HELDOUT_SEED,
    seeds=1000,
)
WORKSPACE_ROWS = WORKSPACE_DRAW.ship("workspace")
