"""Turn the rewards of groups into one advantage per episode.

It knows nothing of tokens, turns or forks: an episode has one advantage however many of each it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

Baseline: TypeAlias = Literal["mean", "leave_one_out"]
ScaleRewards: TypeAlias = Literal["none", "group", "batch"]


def group_advantages(rewards_G: Tensor, *, baseline: Baseline = "mean") -> Tensor:
    """Return the rewards of one group minus their baseline, unscaled, in float64.

    `mean` is Dr. GRPO (arXiv 2503.20783): `R_i - mean(R)`. `leave_one_out` is RLOO (arXiv 2402.14740), as LOOP uses it:
    `R_i - sum_{j != i} R_j / (G - 1)`, which is `G / (G - 1)` times the former and unbiased.

    Defined where the papers are not: a group whose rewards are all equal gives exactly 0 (its rounded mean may differ
    from the rewards), so does a group of one, and a reward that is not finite counts as unknown: it is left out of the
    baseline and gets 0. Truncated episodes belong in `rewards_G`: they are masked from the loss, not from the baseline.
    """
    rewards_G = rewards_G.double()
    known_G = rewards_G.isfinite()
    known = rewards_G[known_G]
    advantages_G = torch.zeros_like(rewards_G)
    if len(known) < 2 or bool((known == known[0]).all()):
        return advantages_G
    correction = len(known) / (len(known) - 1) if baseline == "leave_one_out" else 1.0
    advantages_G[known_G] = correction * (known - known.mean())
    return advantages_G


def advantages(
    groups: Sequence[Tensor],
    *,
    baseline: Baseline = "mean",
    scale_rewards: ScaleRewards = "none",
    eps: float = 1e-4,
) -> list[Tensor]:
    """Return the advantages of every group of a batch, one float32 tensor of length G each.

    `scale_rewards` has TRL's name and meaning. `group` divides by the group's standard deviation plus `eps`
    (GRPO, DeepSeekMath, arXiv 2402.03300); `batch` by that of all the batch's raw rewards (Lite PPO,
    arXiv 2508.08221); `none` does not divide (Dr. GRPO, LOOP, GLM-5). As in TRL the deviation is the sample's
    (ddof=1) where the papers write the population's. Everything is computed in float64 and rounded once.
    """
    centred = [group_advantages(rewards_G, baseline=baseline) for rewards_G in groups]
    if scale_rewards == "none":
        return [advantages_G.float() for advantages_G in centred]
    if scale_rewards == "group":
        scales = [_sample_std(rewards_G) + eps for rewards_G in groups]
    else:
        scales = [_sample_std(torch.cat(list(groups))) + eps] * len(groups) if groups else []
    return [(advantages_G / scale).float() for advantages_G, scale in zip(centred, scales, strict=True)]


def _sample_std(rewards: Tensor) -> float:
    """Return the standard deviation (ddof=1) of the finite rewards, 0 when there are fewer than two."""
    known = rewards[rewards.isfinite()].double()
    return float(known.std()) if len(known) > 1 else 0.0
