"""What an episode is worth: the terms that come of the rewards a Gymnasium environment gave.

It does not know the environment, nor the weights of the terms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentgrpo.errors import EnvError, nearest

TERMS = ("outcome", "return")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """Which terms are wanted, and what a success is.

    `success` is the least last reward of one in an episode that the environment ended; None: anything above 0.
    """

    terms: tuple[str, ...]
    success: float | None

    def __post_init__(self) -> None:
        """Refuse a term that does not exist."""
        for term in self.terms:
            if term not in TERMS:
                raise EnvError(f"there is no term '{term}'; expected {' or '.join(TERMS)}.{nearest(term, TERMS)}")

    def of(self, rewards: Sequence[float], *, is_ended: bool) -> dict[str, float]:
        """Return the terms wanted: "outcome" is 1 for a success, "return" the sum of the rewards."""
        solved = is_ended and (rewards[-1] > 0 if self.success is None else rewards[-1] >= self.success)
        values = {"outcome": float(solved), "return": float(sum(rewards))}
        return {name: values[name] for name in self.terms}
