"""Who may run: episodes enter in the order they came, so many at once, and fewer when the engine's cache overflows."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol, runtime_checkable

CUT = 0.8  # of the limit is left when the engine preempts
PATIENCE = 4  # times as many episodes as may run end in peace before one more may


@runtime_checkable
class CountsPreemptions(Protocol):
    """What an engine may tell: how often its cache was too small and a sequence had to be computed again."""

    @property
    def preemptions(self) -> int:
        """How often so far."""
        ...


class Admission:
    """Places for episodes.

    An engine whose cache is too small for all of them preempts: it throws a sequence's cache away and computes it
    again later, which costs more than waiting. So the limit falls when that happens, at once but not twice for the
    same crowd, and rises by one after `PATIENCE` crowds have ended in peace.

    Args:
        most: The limit to begin with, never exceeded.
    """

    def __init__(self, most: int) -> None:
        self.most = self.limit = most
        self.inside = 0
        self._queue: deque[asyncio.Future[None]] = deque()
        self._preemptions = 0  # the engine's count when it was last looked at
        self._ended = most  # episodes since the limit last changed

    def answer(self, preemptions: int) -> bool:
        """Note an episode's end and how often the engine has preempted so far; return whether the limit fell."""
        has_preempted, self._preemptions = preemptions > self._preemptions, preemptions
        self._ended += 1
        if self._ended < self.limit:
            return False  # who is inside now was let in under the former limit
        if has_preempted and self.limit > 1:
            self.limit, self._ended = max(1, int(self.limit * CUT)), 0
            return True
        if not has_preempted and self.limit < self.most and self._ended >= PATIENCE * self.limit:
            self.limit, self._ended = self.limit + 1, 0
            self._let_in()
        return False

    async def enter(self) -> None:
        """Wait for a place and take it."""
        if self.inside < self.limit and not self._queue:
            self.inside += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it had been let in when it was cancelled
                self.leave()
            raise

    def leave(self) -> None:
        """Give the place back."""
        self.inside -= 1
        self._let_in()

    def _let_in(self) -> None:
        while self._queue and self.inside < self.limit:
            turn = self._queue.popleft()
            if not turn.done():
                self.inside += 1
                turn.set_result(None)
