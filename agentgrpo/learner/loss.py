"""The surrogate loss of each trained token, and the penalty for leaving a reference policy.

It knows neither where the ratios come from nor how the tokens are averaged.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from agentgrpo.learner.ratio import LOG_RATIO_LIMIT

LossType: TypeAlias = Literal["clip", "cispo", "mask", "reinforce"]
KLEstimator: TypeAlias = Literal["k1", "k2", "k3"]


def token_loss(
    logprobs_N: Tensor,
    log_ratio_N: Tensor,
    advantages_N: Tensor,
    *,
    loss_type: LossType,
    epsilon: float = 0.2,
    epsilon_high: float = 0.28,
) -> tuple[Tensor, Tensor]:
    """Return the loss of each token and whether the trust region bound it.

    With `r = exp(log_ratio)`, and the same region `[1 - epsilon, 1 + epsilon_high]` for every type:

    - `clip`: `-min(r A, clip(r) A)`, PPO's with DAPO's two bounds (arXiv 2503.14476, eq. 8). No dual clip.
    - `cispo`: `-sg(clip(r)) A logprob` (MiniMax-M1, arXiv 2506.13585, eq. 4): the weight is capped, the gradient stays.
      The paper, ScaleRL and TRL run it without the lower bound, which is `epsilon=1`. Unlike TRL, whose `epsilon_high`
      is the ceiling itself, the ceiling is `1 + epsilon_high` as in the paper: TRL's 5.0 is 4.0 here.
    - `mask`: `-sg(f(r)) A logprob`, `f(r) = r` strictly inside the region, else 0 (GLM-5's double-sided importance
      sampling, arXiv 2602.15763). A masked token stays in the denominator.
    - `reinforce`: `-A logprob`: no ratio, nothing is bound.

    At `r = 1` all have the same gradient. A token counts as bound under `clip` when its gradient is 0, under `cispo`
    when its weight was changed, under `mask` when it was masked.

    Args:
        logprobs_N: The learner's logprobs, with gradient.
        log_ratio_N: From `ratio.log_ratio`; its gradient is used by `clip` only.
        advantages_N: The advantage of each token's episode.
        loss_type: Which surrogate.
        epsilon: How far below 1 the region reaches.
        epsilon_high: How far above 1 it reaches.
    """
    low, high = 1.0 - epsilon, 1.0 + epsilon_high
    ratio_N = log_ratio_N.exp()
    if loss_type == "clip":
        loss_N = torch.maximum(-advantages_N * ratio_N, -advantages_N * ratio_N.clamp(low, high))
        return loss_N, ((ratio_N < low) & (advantages_N < 0)) | ((ratio_N > high) & (advantages_N > 0))
    weight_N, bound_N = _detached_weight(ratio_N.detach(), loss_type, low, high)
    return -weight_N * advantages_N * logprobs_N, bound_N


def _detached_weight(ratio_N: Tensor, loss_type: LossType, low: float, high: float) -> tuple[Tensor, Tensor]:
    if loss_type == "cispo":
        return ratio_N.clamp(low, high), (ratio_N < low) | (ratio_N > high)
    if loss_type == "mask":
        outside_N = (ratio_N <= low) | (ratio_N >= high)
        return ratio_N.masked_fill(outside_N, 0.0), outside_N
    return torch.ones_like(ratio_N), torch.zeros_like(ratio_N, dtype=torch.bool)


def kl_penalty(logprobs_N: Tensor, ref_logprobs_N: Tensor, estimator: KLEstimator) -> Tensor:
    """Return an estimate of KL(policy || reference) for each token, with gradient (Schulman's k1, k2, k3).

    With `l = logprob - ref_logprob`: k1 is `l`, k2 is `l**2 / 2`, k3 is `exp(-l) - 1 + l` (GRPO's). In expectation over
    tokens the policy sampled, k1 and k3 have the value of KL(policy || ref); k2 does not. As a term of the loss their
    expected gradients are another matter: k1 gives 0 (use it in the reward), k2 gives that of KL(policy || ref), k3
    that of KL(ref || policy). `l` is clamped to +-`LOG_RATIO_LIMIT`, without gradient beyond.
    """
    difference_N = (logprobs_N - ref_logprobs_N.detach()).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    if estimator == "k1":
        return difference_N
    if estimator == "k2":
        return difference_N.square() / 2
    return (-difference_N).expm1() + difference_N
