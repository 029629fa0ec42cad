"""Decide which episodes train, and say why the others do not.

It drops nothing by itself and changes no baseline: an episode that does not train keeps its place in its group.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from agentgrpo.types import EpisodeKey, Group, Trajectory


class FilterReason(StrEnum):
    """Why an episode does not train. When several apply, the first in this order is given."""

    NON_FINITE_REWARD = "non_finite_reward"  # NaN or infinite: also out of the baseline
    TOO_FEW_SURVIVORS = "too_few_survivors"  # the group lost so many episodes that its baseline says little
    ZERO_VARIANCE = "zero_variance"  # all rewards of the group are equal: no signal
    NOTHING_SAMPLED = "nothing_sampled"  # no token of its own to train
    TRUNCATED = "truncated"  # a limit ended it: masked from the loss, kept in the baseline


ADVISE_EVERY = 5  # train steps in a row that trained nothing
_WORDS = {
    FilterReason.NON_FINITE_REWARD: "have a reward that is no number",
    FilterReason.TOO_FEW_SURVIVORS: "are in groups with too few scored episodes",
    FilterReason.ZERO_VARIANCE: "are in groups whose rewards are all equal",
    FilterReason.NOTHING_SAMPLED: "sampled no token",
    FilterReason.TRUNCATED: "were cut off by a limit",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Whether one episode trains; `reason` is None when it does."""

    key: EpisodeKey
    reason: FilterReason | None = None

    @property
    def trains(self) -> bool:
        """Whether the episode's tokens are in the loss."""
        return self.reason is None


def filter_groups(
    groups: Sequence[Group],
    *,
    drop_zero_variance: bool = True,
    mask_truncated: bool = True,
    min_survivors: int = 2,
) -> list[Decision]:
    """Return one decision per trajectory, in the order of the groups and of their samples.

    Args:
        groups: The scored episodes of a batch.
        drop_zero_variance: Leave out groups whose rewards are all equal (the filter of DAPO's dynamic sampling,
            arXiv 2503.14476; nothing is resampled here). Kept, they have advantage 0 but count in denominators and KL.
        mask_truncated: Leave out episodes a limit ended (DAPO's overlong filtering, TRL's
            `mask_truncated_completions`). Their reward stays in the group's baseline.
        min_survivors: Leave out groups with fewer episodes of finite reward than this (GLM-5, arXiv 2602.15763, drops
            a group at G/2 and pads it above; nothing is padded here).
    """
    decisions = []
    for group in groups:
        group_reason = _group_reason(group, drop_zero_variance=drop_zero_variance, min_survivors=min_survivors)
        for trajectory in group.trajectories:
            reason = _reason(trajectory, group_reason, mask_truncated=mask_truncated)
            decisions.append(Decision(key=trajectory.key, reason=reason))
    return decisions


def count_reasons(decisions: Iterable[Decision]) -> dict[FilterReason, int]:
    """Return how many episodes each reason left out; every reason has an entry, so that a 0 is a measured 0."""
    counts = Counter(decision.reason for decision in decisions)
    return {reason: counts[reason] for reason in FilterReason}


def no_signal(groups: Sequence[Group], decisions: Sequence[Decision], in_a_row: int) -> str:
    """Return why a train step trained nothing; every few such steps in a row also what to do about it."""
    left_out = ", ".join(f"{count} {_WORDS[reason]}" for reason, count in count_reasons(decisions).items() if count)
    text = f"nothing to learn from: of {len(decisions)} scored episodes {left_out or 'none was left'}"
    successes = [bool(t.success) for group in groups for t in group.trajectories]
    if successes and (all(successes) or not any(successes)):
        text = f"{text}; {'all' if successes[0] else 'none'} succeeded"
    if in_a_row == 0 or in_a_row % ADVISE_EVERY:
        return text
    rate = sum(successes) / max(1, len(successes))
    return f"{text}. That makes {in_a_row} train steps in a row; success is {rate:.0%}. {_advice(rate)}"


def _advice(rate: float) -> str:
    if rate < 0.05:
        return (
            "The tasks are too hard for this model: warm-start it (agentgrpo model sft), take easier tasks, give it "
            "more turns or tokens, or reward parts of the way"
        )
    if rate > 0.95:
        return "The tasks are too easy: take harder ones, or stop here"
    return "Groups succeed or fail as a whole: raise rollout.group_size or rollout.temperature, or mix the tasks"


def _group_reason(group: Group, *, drop_zero_variance: bool, min_survivors: int) -> FilterReason | None:
    rewards = [trajectory.reward for trajectory in group.trajectories if _is_finite(trajectory.reward)]
    if len(rewards) < min_survivors:
        return FilterReason.TOO_FEW_SURVIVORS
    # Exactly equal, as in `advantage.group_advantages`, so that no group with an advantage is left out.
    return FilterReason.ZERO_VARIANCE if drop_zero_variance and len(set(rewards)) < 2 else None


def _reason(trajectory: Trajectory, group_reason: FilterReason | None, *, mask_truncated: bool) -> FilterReason | None:
    if not _is_finite(trajectory.reward):
        return FilterReason.NON_FINITE_REWARD
    if group_reason is not None:
        return group_reason
    if trajectory.sampled_count == 0:
        return FilterReason.NOTHING_SAMPLED
    return FilterReason.TRUNCATED if mask_truncated and trajectory.stop_reason.is_truncated else None


def _is_finite(reward: float | None) -> bool:
    return reward is not None and math.isfinite(reward)
