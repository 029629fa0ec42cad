"""The pace of asynchronous training: how many groups may start, and which of them a train step takes. Pure arithmetic.

Let v be the learner's version (train steps made), B the groups of a train step, S the steps of the run, eta the bound
(`train.max_staleness`) and n the groups started so far, numbered from 0.

**Start.** New groups are paced, none is ever thrown away (equation 3 of AReaL, arXiv 2505.24298, with an end):

    start while n < min(v + eta + 1, S) * B and a place is free

**Take.** A group that began under version p must train at a version k <= p + eta: one step later its staleness would
exceed eta. The step from v to v + 1 takes the B oldest complete groups, if those it leaves still fit into the steps
before their bounds, and waits otherwise (for the oldest that are open):

    for every k >= v: of the groups left, at most (k - v) * B have p + eta <= k

So no group is staler than eta when it trains and none is dropped. The start rule keeps the same inequality (before a
step: at most (k - v + 1) * B), so that a step is possible at the latest when every group is complete: the B oldest then
do. Slow tasks get their turn like fast ones: what is trained is what was drawn. With eta = 0 it is synchronous.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where a group stands that was started and not yet trained."""

    number: int  # groups are numbered as they start
    version: int  # of the policy it began under
    is_complete: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Pacing:
    """The rules above, for a run of `steps` train steps."""

    batch: int
    group_size: int
    max_staleness: int
    steps: int

    def room(self, version: int, started: int, *, idle: int) -> int:
        """Return how many groups may start now, `idle` places being free; the last may get fewer than it has episodes.

        A group never starts only to queue: it would lie on a version that is older than it need be.
        """
        paced = min(version + self.max_staleness + 1, self.steps) * self.batch - started
        return max(0, min(paced, -(-idle // self.group_size)))

    def choose(self, groups: Sequence[Standing], version: int) -> list[int] | None:
        """Return the numbers of the groups that the step at this version takes, in order; None while it has to wait."""
        # By version first: in a resumed run a group with a lower number may have begun anew, under a newer one.
        complete = sorted((g for g in groups if g.is_complete), key=lambda g: (g.version, g.number))
        numbers = sorted(group.number for group in complete[: self.batch])
        left = Counter(group.version for group in groups if group.number not in numbers)
        return numbers if len(numbers) == self.batch and self._can_train(left, version + 1) else None

    def is_held_up(self, groups: Sequence[Standing], version: int) -> bool:
        """Whether a step could be made but for the oldest groups, which it waits for."""
        return sum(g.is_complete for g in groups) >= self.batch and self.choose(groups, version) is None

    def _can_train(self, begun: Mapping[int, int], version: int) -> bool:
        """Whether so many groups by version fit into the steps from this version on before they are too stale."""
        fit = ((k + self.max_staleness + 1 - version) * self.batch for k in sorted(begun))
        return all(count <= room for count, room in zip(accumulate(begun[k] for k in sorted(begun)), fit, strict=True))
