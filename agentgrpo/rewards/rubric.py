"""A rubric: named reward terms, weighed so that no shaping can be worth more than reaching the goal.

It does not know what the terms measure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from agentgrpo.errors import EnvError, nearest

OUTCOME = "outcome"
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Rubric:
    """Weights of reward terms beside the outcome, which weighs 1.

    Terms are values in [0, 1]. A bonus has a positive weight w and counts `w * (value - outcome)`: a failure earns what
    it has of it, a success loses what it lacks, so that a success that lacks nothing earns exactly 1. A penalty has a
    negative weight and counts `w * value`. The worst success earns more than the best failure, whatever the terms say,
    when `2 * (sum of bonuses) + (sum of penalties) < 1`: other weights are refused.

    >>> rubric = Rubric({"progress": 0.2, "side_effects": -0.3})
    >>> rubric.score(0.0, progress=0.5, side_effects=1.0)
    {'outcome': 0.0, 'progress': 0.1, 'side_effects': -0.3}
    >>> rubric.score(1.0, progress=1.0, side_effects=0.0)
    {'outcome': 1.0, 'progress': 0.0, 'side_effects': 0.0}

    Args:
        weights: Of each term but the outcome.
        may_outweigh_outcome: Accept weights that could make a failure worth more than a success.

    Raises:
        EnvError: the weights could outweigh the outcome and nothing says that they may, or one has no effect.
    """

    weights: Mapping[str, float]
    may_outweigh_outcome: bool = False

    def __post_init__(self) -> None:
        """Refuse weights that would let shaping win."""
        if OUTCOME in self.weights:
            raise EnvError("the outcome weighs 1 in a rubric: give the other terms' weights as shares of it")
        for name, weight in self.weights.items():
            if not 0 < abs(weight) < math.inf:
                raise EnvError(f"the rubric gives '{name}' the weight {weight}: expected a number that is not 0")
        if worth(self.weights) >= 1 - _ROUNDING and not self.may_outweigh_outcome:
            listed = ", ".join(f"{name} {weight:g}" for name, weight in self.weights.items())
            raise EnvError(
                f"the rubric's terms ({listed}) are together worth {worth(self.weights):g} (a bonus counts twice: what "
                "a failure can earn by it, and what a success can miss), the outcome is worth 1: a failure could earn "
                "more than a success. Lower them (rewards.scaled does), or say may_outweigh_outcome=True"
            )

    def __or__(self, other: Rubric | Mapping[str, float]) -> Rubric:
        """Return a rubric of both; where both have a term, the other's weight holds."""
        more = other if isinstance(other, Rubric) else Rubric(other, may_outweigh_outcome=True)
        is_told = self.may_outweigh_outcome or (isinstance(other, Rubric) and other.may_outweigh_outcome)
        return Rubric({**self.weights, **more.weights}, may_outweigh_outcome=is_told)

    def score(self, outcome: float, /, **terms: float) -> dict[str, float]:
        """Return the reward terms of an episode, weighted: what `ToolEnv.reward` returns.

        Args:
            outcome: In [0, 1]; 1 is success.
            **terms: Every term of the rubric, in [0, 1].

        Raises:
            EnvError: a term is missing, unknown, or out of bounds.
        """
        for name in terms.keys() ^ self.weights.keys():
            known = ", ".join(self.weights) or "none"
            if name in terms:
                raise EnvError(f"the rubric has no term '{name}', it has {known}.{nearest(name, self.weights)}")
            raise EnvError(f"the rubric's term '{name}' was not given: score needs all of {known}")
        reached = _bounded(OUTCOME, outcome)
        found = {OUTCOME: reached}
        for name, weight in self.weights.items():
            value = _bounded(name, terms[name])
            found[name] = weight * (value - reached if weight > 0 else value) + 0.0  # no term is -0
        return found


def worth(weights: Mapping[str, float]) -> float:
    """Return how far weights can move a failure and a success towards each other; the outcome is worth 1."""
    return sum(2 * weight if weight > 0 else -weight for weight in weights.values())


def scaled(weights: Mapping[str, float], total: float) -> dict[str, float]:
    """Return the weights in the same proportions, together worth `total`."""
    size = worth(weights)
    if not size:
        raise EnvError("there is no weight to scale")
    return {name: weight * total / size for name, weight in weights.items()}


def _bounded(name: str, value: float) -> float:
    if not -_ROUNDING <= value <= 1 + _ROUNDING:
        raise EnvError(
            f"the term '{name}' is {value!r}, expected a number from 0 to 1: weights say how much a term counts, and "
            "a negative one that it is a penalty"
        )
    return min(1.0, max(0.0, float(value)))
