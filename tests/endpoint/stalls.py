"""Stalls of the stub endpoint that are over at once: the loop's clock is put forward for them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from agentgrpo.endpoint.stub import Fault
from tests.clock import leap


def stalling(faults: Iterable[Fault], seconds: float) -> Iterator[Fault]:
    """Give these faults; with each stall so many seconds pass."""
    for fault in faults:
        if fault == "stall":
            leap(seconds)
        yield fault
