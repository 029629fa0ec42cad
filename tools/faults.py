"""Faults of a simulated service: how long an answer takes and what goes wrong, decided by a seed.

It does not know the service. The same seed, session and number of the call in it give the same fault, whatever other
sessions do meanwhile.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Literal, TypeAlias

from agentgrpo.errors import UserError
from agentgrpo.seeds import derive_seed

FaultKind: TypeAlias = Literal["none", "too_many", "error", "hang", "reset"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What happens to one call. `is_after`: the work was done, only the answer is lost."""

    kind: FaultKind
    latency: float  # seconds
    is_after: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """How often what goes wrong; the rates are shares of the calls and sum to 1 at most.

    Args:
        seed: Another seed gives other faults.
        latency: Seconds a call takes, the median of them when there is a spread.
        spread: Sigma of a log-normal latency; 0 makes it constant.
        too_many: Rate of 429 with Retry-After.
        errors: Rate of 500.
        hangs: Rate of calls that are not answered.
        resets: Rate of connections that are reset.
        retry_after: Seconds a 429 asks for.
        hang_seconds: After so long a hanging call is given up here too.

    Raises:
        UserError: a number that cannot be.
    """

    seed: int = 0
    latency: float = 0.0
    spread: float = 0.0
    too_many: float = 0.0
    errors: float = 0.0
    hangs: float = 0.0
    resets: float = 0.0
    retry_after: int = 1
    hang_seconds: float = 3600.0

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        rates = (self.too_many, self.errors, self.hangs, self.resets)
        if min(rates) < 0 or sum(rates) > 1:
            raise UserError(f"rates of faults are shares that sum to 1 at most, got {rates}")
        if min(self.latency, self.spread, self.retry_after, self.hang_seconds) < 0:
            raise UserError("latency, spread, retry_after and hang_seconds cannot be below 0")

    def draw(self, session: str, number: int) -> Fault:
        """Return what happens to a call.

        Args:
            session: The session's name.
            number: How many calls it made before, those that failed included.
        """
        rng = random.Random(derive_seed(self.seed, "fault", session, number))
        chance, is_after, normal = rng.random(), rng.random() < 0.5, rng.gauss(0.0, 1.0)
        kind: FaultKind = "none"
        for name, rate in self._rates():
            if 0 <= chance < rate:
                kind = name
            chance -= rate
        # A service that turns a call away has not done it.
        return Fault(
            kind=kind,
            latency=self.latency * math.exp(self.spread * normal),
            is_after=is_after and kind not in ("none", "too_many"),
        )

    def _rates(self) -> tuple[tuple[FaultKind, float], ...]:
        return (("too_many", self.too_many), ("error", self.errors), ("hang", self.hangs), ("reset", self.resets))
