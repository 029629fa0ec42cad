"""How far two ways to compute the same number may differ: the one table of it.

In bfloat16 two right computations of a text differ by 0.03 to 0.05 a token (root mean square; 24 to 28 layers, logits
with a standard deviation of 3, on the CPU), by 0.15 at most among 48 tokens; vLLM and learners of others by as much on
GPUs. A version is proved at every train step, and none of some hundred may be refused for its rounding.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far an engine's logprobs may be from the learner's: on one token, and on average."""

    each: float
    mean: float


LOGPROB_TOLERANCE = {
    "float32": Tolerance(each=1e-4, mean=1e-4),
    "bfloat16": Tolerance(each=0.5, mean=0.1),
    "float16": Tolerance(each=5e-2, mean=1e-2),
}
MISMATCH_ALARM = 0.01  # k3 KL between engine and learner, on average over a step's sampled tokens
