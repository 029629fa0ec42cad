"""How far two ways to compute the same number may differ: the one table of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far an engine's logprobs may be from the learner's: on one token, and on average."""

    each: float
    mean: float


LOGPROB_TOLERANCE = {
    "float32": Tolerance(each=1e-4, mean=1e-4),
    "bfloat16": Tolerance(each=5e-2, mean=1e-2),
    "float16": Tolerance(each=5e-2, mean=1e-2),
}
MISMATCH_ALARM = 0.01  # k3 KL between engine and learner, on average over a step's sampled tokens
