"""Importance ratios between the learner and the policy that sampled, and how far the two are apart.

It does not know what the ratios are used for, and takes the flat layout: trained tokens only, nothing padded or masked.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor

Level: TypeAlias = Literal["token", "turn", "sequence"]

LOG_RATIO_LIMIT = 20.0
"""Log-ratios are clamped to +-20 (verl's bound): exp(20) is 4.9e8, so no product of ratios overflows fp32."""

_TURN_STRIDE = 1 << 32  # more turns than an episode can have: (episode, turn) becomes one integer


def log_ratio(logprobs_N: Tensor, behaviour_N: Tensor, episode_N: Tensor, turn_N: Tensor, level: Level) -> Tensor:
    """Return the log importance ratio of every token, at the chosen level, with its gradient.

    `token` is `logprobs - behaviour` (PPO). `sequence` is GSPO's (arXiv 2507.18071, eq. 7): the mean of the
    log-ratios of all trained tokens of the episode, that is the log of their geometric mean, given to each of them;
    gradients flow through the mean (GSPO, not GSPO-token). `turn` is the same over each turn of an episode. TRL and
    verl call the *product* "sequence" in their mismatch corrections; that is not what this is.

    All tokens of a segment must be in the call: a mean over part of an episode is another number. Values are clamped
    to +-`LOG_RATIO_LIMIT` after the mean; a clamped token or segment has no gradient through its ratio.

    Args:
        logprobs_N: The learner's logprobs.
        behaviour_N: Logprobs of the policy that sampled; never differentiated.
        episode_N: Episode index of each token.
        turn_N: Index of the token's turn within its episode.
        level: What shares one ratio.
    """
    log_ratio_N = logprobs_N - behaviour_N.detach()
    if level == "sequence":
        log_ratio_N = _segment_mean(log_ratio_N, episode_N)
    elif level == "turn":
        log_ratio_N = _segment_mean(log_ratio_N, episode_N * _TURN_STRIDE + turn_N)
    return log_ratio_N.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)


def truncated_weights(old_logprobs_N: Tensor, behaviour_N: Tensor, *, cap: float = 2.0) -> Tensor:
    """Return `min(old / behaviour, cap)` per token, detached: truncated importance sampling (TIS).

    It corrects for the engine's numbers differing from the learner's when the clip uses the learner's old logprobs.
    """
    log_ratio_N = (old_logprobs_N - behaviour_N).detach()
    return log_ratio_N.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp().clamp(max=cap)


def kl_k3(logprobs_N: Tensor, behaviour_N: Tensor) -> Tensor:
    """Return the k3 estimate of KL(behaviour || learner) per token, a float64 scalar without gradient.

    `mean(r - 1 - log r)` with `r = learner / behaviour` on tokens the behaviour policy sampled (Schulman's k3): never
    negative, 0 only where the two agree. NaN when there is no token.
    """
    log_ratio_N = _mismatch(logprobs_N, behaviour_N)
    return (log_ratio_N.expm1() - log_ratio_N).mean()


def effective_sample_size(logprobs_N: Tensor, behaviour_N: Tensor) -> Tensor:
    """Return the effective sample size of the token ratios as a fraction of N, a float64 scalar without gradient.

    `mean(r)**2 / mean(r**2)` (Kish): 1 when all ratios are equal, `1 / N` when one outweighs all others. NaN when
    there is no token.
    """
    ratio_N = _mismatch(logprobs_N, behaviour_N).exp()
    return ratio_N.mean().square() / ratio_N.square().mean()


def _mismatch(logprobs_N: Tensor, behaviour_N: Tensor) -> Tensor:
    difference_N = logprobs_N.detach().cpu().double() - behaviour_N.detach().cpu().double()
    return difference_N.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)


def _segment_mean(values_N: Tensor, segment_N: Tensor) -> Tensor:
    """Return, for each token, the mean of the values in its segment; tokens of a segment need not be adjacent."""
    _, index_N = torch.unique(segment_N, return_inverse=True)
    count_S = torch.bincount(index_N)
    sum_S = values_N.new_zeros(len(count_S)).index_add(0, index_N, values_N)
    return (sum_S / count_S)[index_N]
