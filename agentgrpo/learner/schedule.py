"""Learning rates as pure functions of the train step.

It holds no state and knows no optimizer: a resumed run asks for the same step and gets the same rate.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

Schedule: TypeAlias = Literal["constant", "linear", "cosine"]


def learning_rate(step: int, *, peak: float, kind: Schedule, warmup_steps: int = 0, total_steps: int) -> float:
    """Return the learning rate of train step `step`, counted from 0.

    It rises linearly over `warmup_steps`, reaches `peak` at step `warmup_steps`, then stays (`constant`) or falls to 0
    at step `total_steps`, one after the last (`linear`, `cosine`). The shapes are those of transformers'
    `lr_scheduler_type`, except that warmup starts at `peak / (warmup_steps + 1)` instead of 0: a first step at
    rate 0 would cost a whole rollout and change nothing.
    """
    if step < warmup_steps:
        return peak * (step + 1) / (warmup_steps + 1)
    if kind == "constant":
        return peak
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return peak * (1.0 - progress if kind == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress)))
