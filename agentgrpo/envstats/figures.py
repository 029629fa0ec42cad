"""The figures themselves, and the sentence they come to. Pure: nothing is played, read or printed here."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from agentgrpo.evaluate.heldout import wilson

_LITTLE = 0.2  # share of groups with a signal, below which most of a rollout is wasted
_ALWAYS, _NEVER = 0.98, 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """What is needed of a scored episode. Tokens are None where there is no tokenizer."""

    group: str  # episodes of one task from the same start state share it
    reward: float
    is_success: bool
    turns: int
    calls: int
    errors: int
    sampled_tokens: int | None = None
    tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What a policy's episodes come to."""

    policy: str
    episodes: int
    success: float
    low: float  # 95 % interval of the success rate
    high: float
    reward: float
    margin: float  # half the 95 % interval of the mean reward
    turns: float
    calls: float
    error_rate: float  # of calls


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How something is distributed."""

    median: float
    high: float  # nine of ten are at most this
    most: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """What groups of episodes teach a group-relative learner: only those whose rewards differ teach anything."""

    groups: int
    differing: int
    low: float  # 95 % interval of the share that differs
    high: float
    within: float  # mean of the groups' standard deviations
    success: float

    @property
    def share(self) -> float:
        return self.differing / self.groups


def score_of(policy: str, episodes: Sequence[Ended]) -> Score:
    """Return what at least one episode comes to.

    The success interval is Wilson's (1927), that of the mean reward the normal approximation.
    """
    wins, count = sum(e.is_success for e in episodes), len(episodes)
    low, high = wilson(wins, count)
    rewards = [e.reward for e in episodes]
    calls = sum(e.calls for e in episodes)
    return Score(
        policy=policy,
        episodes=count,
        success=wins / count,
        low=low,
        high=high,
        reward=statistics.fmean(rewards),
        margin=1.96 * statistics.stdev(rewards) / math.sqrt(count) if count > 1 else 0.0,
        turns=statistics.fmean(e.turns for e in episodes),
        calls=calls / count,
        error_rate=sum(e.errors for e in episodes) / calls if calls else 0.0,
    )


def spread_of(values: Iterable[float]) -> Spread:
    """Return how at least one value is distributed."""
    ranked = sorted(values)
    return Spread(median=statistics.median(ranked), high=ranked[math.ceil(0.9 * len(ranked)) - 1], most=ranked[-1])


def signal_of(episodes: Iterable[Ended]) -> Signal | None:
    """Return what the groups among some episodes teach; None when no group has two scored episodes."""
    groups: dict[str, list[Ended]] = {}
    for episode in episodes:
        groups.setdefault(episode.group, []).append(episode)
    whole = [group for group in groups.values() if len(group) > 1]
    if not whole:
        return None
    spreads = [statistics.pstdev(e.reward for e in group) for group in whole]
    differing = sum(spread > 1e-9 for spread in spreads)
    low, high = wilson(differing, len(whole))
    return Signal(
        groups=len(whole),
        differing=differing,
        low=low,
        high=high,
        within=statistics.fmean(spreads),
        success=statistics.fmean(e.is_success for group in whole for e in group),
    )


def answer(signal: Signal, tasks_per_step: int) -> str:
    """Return in one sentence whether there is anything to learn from, and else what to do."""
    if signal.differing:
        used = max(1, round(signal.share * tasks_per_step))
        told = (
            f"in {signal.share:.0%} of the groups do episodes differ (95 % interval {signal.low:.0%} to "
            f"{signal.high:.0%}); of a train step's {tasks_per_step} groups, about {used} would train"
        )
        if signal.share >= _LITTLE:
            return f"Yes: {told}."
        fix = _EASIER if signal.success < 0.5 else _HARDER
        return f"Little: {told}; {fix}."
    if signal.success >= _ALWAYS:
        return f"No: every episode of {signal.groups} groups succeeds; {_HARDER}."
    if signal.success <= _NEVER:
        return f"No: no episode of {signal.groups} groups succeeds, and all of a group earn the same; {_EASIER}."
    return (
        f"No: within each of {signal.groups} groups all episodes earn the same ({signal.success:.0%} of them succeed): "
        "sample at a higher temperature, or take tasks that are neither always solved nor never."
    )


_EASIER = "demonstrate first ([warm_start], agentgrpo model sft), or begin with easier tasks"
_HARDER = "take harder tasks"
