"""What a run is doing at this moment: its stage, what it waits for, and what went wrong beside it.

It knows neither episodes nor engines: who waits says for what, in words. Any thread may ask.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Something outside that was asked and has not answered."""

    who: str  # an episode's key, or a stage
    kind: str  # "generate", "env step", "place", "store": equal kinds are counted together
    detail: str = ""  # the turn, the tools called
    since: float = 0.0  # time.monotonic()

    def __str__(self) -> str:
        return " ".join(filter(None, (self.who, self.kind, self.detail)))


class Activity:
    """Who waits for what, and whether anything moves.

    Args:
        tell: Is given the first trouble of each kind, as a sentence.
    """

    def __init__(self, tell: Callable[[str], None] | None = None) -> None:
        self.stage = "start"
        self.beats = 0  # grows with every answer that came and every microbatch made
        self.troubles: Counter[str] = Counter()
        self._tell = tell
        self._waits: dict[int, Wait] = {}
        self._numbers = itertools.count()

    @contextmanager
    def waiting(self, who: str, kind: str, detail: str = "") -> Iterator[None]:
        """Note a wait while the context is open; its end, whatever it is, counts as progress."""
        number = next(self._numbers)
        self._waits[number] = Wait(who=who, kind=kind, detail=detail, since=time.monotonic())
        try:
            yield
        finally:
            del self._waits[number]
            self.beat()

    def beat(self) -> None:
        """Note that something moved."""
        self.beats += 1

    def enter(self, stage: str) -> None:
        """Note that a stage began, which is progress."""
        self.stage = stage
        self.beat()

    def pending(self) -> list[Wait]:
        """Return what is waited for, the longest wait first."""
        return sorted(self._waits.copy().values(), key=lambda wait: wait.since)

    def trouble(self, kind: str, text: str) -> None:
        """Count something that went wrong beside the episodes, which go on."""
        self.troubles[kind] += 1
        if self.troubles[kind] == 1 and self._tell is not None:
            self._tell(text)

    def metrics(self) -> dict[str, float]:
        """Return how much went wrong beside the episodes so far."""
        return {f"trouble/{kind}": float(count) for kind, count in sorted(self.troubles.items())}
