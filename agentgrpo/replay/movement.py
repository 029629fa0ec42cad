"""What another reward would have changed: means, ranks within groups, which groups it would train on. Pure maths."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from agentgrpo.store.rows import EpisodeRow
from agentgrpo.types import Phase

MOST_MOVED = 10  # episodes that are named


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """An episode with the reward it ended with and another one."""

    row: EpisodeRow
    before: float
    after: float
    success_before: bool
    success_after: bool

    @property
    def change(self) -> float:
        """How much more the other reward gives."""
        return self.after - self.before


@dataclass(frozen=True, slots=True, kw_only=True)
class Movement:
    """How the episodes of one phase move; groups are those of at least two episodes."""

    phase: Phase
    episodes: int
    reward_before: float
    reward_after: float
    success_before: float
    success_after: float
    rank_correlation: float | None  # mean over groups; None where no group has two ranks in both
    ranked_groups: int
    groups: int
    gained: int  # groups whose rewards were all equal and are not any more
    lost: int  # groups whose rewards are all equal now and were not


def movements(pairs: Iterable[Pair]) -> list[Movement]:
    """Return how the episodes of each phase move, in the order of the phases."""
    phases: dict[Phase, list[Pair]] = {}
    for pair in pairs:
        phases.setdefault(pair.row.phase, []).append(pair)
    return [_movement(phase, found) for phase, found in sorted(phases.items(), key=lambda item: _ORDER.index(item[0]))]


def most_moved(pairs: Iterable[Pair]) -> list[Pair]:
    """Return the episodes whose reward changes most, the largest change first."""
    moved = [pair for pair in pairs if pair.change]
    return sorted(moved, key=lambda pair: (-abs(pair.change), pair.row.id))[:MOST_MOVED]


def spearman(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Return Spearman's rank correlation: Pearson's of the ranks, equal values sharing the mean of theirs.

    None where all values of one side are equal: then it has no ranks.
    """
    ranks, others = _ranks(one), _ranks(other)
    mean = (len(one) + 1) / 2
    spread = math.sqrt(sum((r - mean) ** 2 for r in ranks) * sum((r - mean) ** 2 for r in others))
    if not spread:
        return None
    return sum((a - mean) * (b - mean) for a, b in zip(ranks, others, strict=True)) / spread


_ORDER: tuple[Phase, ...] = ("train", "eval", "fork")


def _movement(phase: Phase, pairs: Sequence[Pair]) -> Movement:
    groups: dict[tuple[int, str], list[Pair]] = {}
    for pair in pairs:
        groups.setdefault((pair.row.step, pair.row.task_id), []).append(pair)
    sides = [([p.before for p in g], [p.after for p in g]) for g in groups.values() if len(g) > 1]
    correlations = [value for before, after in sides if (value := spearman(before, after)) is not None]
    flat = [(len(set(before)) == 1, len(set(after)) == 1) for before, after in sides]
    count = len(pairs)
    return Movement(
        phase=phase,
        episodes=count,
        reward_before=sum(p.before for p in pairs) / count,
        reward_after=sum(p.after for p in pairs) / count,
        success_before=sum(p.success_before for p in pairs) / count,
        success_after=sum(p.success_after for p in pairs) / count,
        rank_correlation=sum(correlations) / len(correlations) if correlations else None,
        ranked_groups=len(correlations),
        groups=len(sides),
        gained=sum(was and not is_now for was, is_now in flat),
        lost=sum(is_now and not was for was, is_now in flat),
    )


def _ranks(values: Sequence[float]) -> list[float]:
    """Return the rank of each value from 1 on; equal values share the mean of the ranks they take up."""
    order = sorted(range(len(values)), key=lambda index: values[index])
    ranks = [0.0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end + 1 < len(order) and values[order[end + 1]] == values[order[start]]:
            end += 1
        for place in range(start, end + 1):
            ranks[order[place]] = (start + end) / 2 + 1
        start = end + 1
    return ranks
