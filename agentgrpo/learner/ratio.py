"""Importance ratios between the learner and the policy that sampled, and how far the two are apart.

It does not know what the ratios are used for, and takes the flat layout: trained tokens only, nothing padded or masked.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import torch
from torch import Tensor

Level: TypeAlias = Literal["token", "turn", "sequence"]
Truncation: TypeAlias = Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]

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


def truncated_weights(
    old_N: Tensor,
    behaviour_N: Tensor,
    episode_N: Tensor,
    *,
    kind: Truncation = "token_truncate",
    cap: float = 2.0,
    floor: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the importance weight `learner / engine` of each token, bounded and detached, and whether it was bound.

    It corrects for the engine's numbers differing from the learner's when the clip uses the learner's old logprobs. The
    names are those of TRL's `vllm_importance_sampling_mode`:

    - `token_truncate`: `min(rho, cap)` of each token (TIS; verl and slime have it at 2), at least `floor` if given.
    - `token_mask`: `rho` where `floor <= rho <= cap`, else 0: the token trains nothing but stays in the denominator
      (IcePop; GLM-5, arXiv 2602.15763, at 1/2 and 2).
    - `sequence_truncate`, `sequence_mask`: the same with one rho per episode, the *product* of those of its trained
      tokens as in TRL and verl, and not GSPO's geometric mean. It shrinks with length: over thousands of tokens almost
      every weight is near 0, without being bound.

    Log-ratios are clamped to +-`LOG_RATIO_LIMIT`, so a weight that is bound by no `cap` is finite all the same.
    """
    log_ratio_N = (old_N - behaviour_N).detach()
    if kind in ("sequence_truncate", "sequence_mask"):
        sum_S, _, index_N = _segments(log_ratio_N, episode_N)
        log_ratio_N = sum_S[index_N]
    ratio_N = log_ratio_N.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    bound_N = (ratio_N > cap) | (ratio_N < (floor or 0.0))
    if kind in ("token_mask", "sequence_mask"):
        return ratio_N.masked_fill(bound_N, 0.0), bound_N
    return ratio_N.clamp(min=floor, max=cap), bound_N


def kl_k3(logprobs_N: Tensor, behaviour_N: Tensor) -> Tensor:
    """Return the k3 estimate of KL(behaviour || learner) per token, a float64 scalar without gradient.

    `mean(r - 1 - log r)` with `r = learner / behaviour` on tokens the behaviour policy sampled (Schulman's k3): never
    negative, 0 only where the two agree. NaN when there is no token.
    """
    log_ratio_N = _mismatch(logprobs_N, behaviour_N)
    return (log_ratio_N.expm1() - log_ratio_N).mean()


def ratio_sums(logprobs_N: Tensor, behaviour_N: Tensor) -> tuple[float, float]:
    """Return the sums of the token ratios learner / behaviour and of their squares, which add up over microbatches."""
    ratio_N = _mismatch(logprobs_N, behaviour_N).exp()
    return float(ratio_N.sum()), float(ratio_N.square().sum())


def effective_sample_size(total: float, squares: float, count: int) -> float:
    """Return the effective sample size of `count` tokens as a fraction of them, from `ratio_sums`.

    `mean(r)**2 / mean(r**2)` (Kish): 1 when all ratios are equal, `1 / count` when one outweighs all others. NaN when
    there is no token.
    """
    return total * total / (count * squares) if count else math.nan


def _mismatch(logprobs_N: Tensor, behaviour_N: Tensor) -> Tensor:
    difference_N = logprobs_N.detach().cpu().double() - behaviour_N.detach().cpu().double()
    return difference_N.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)


def _segment_mean(values_N: Tensor, segment_N: Tensor) -> Tensor:
    sum_S, count_S, index_N = _segments(values_N, segment_N)
    return (sum_S / count_S)[index_N]


def _segments(values_N: Tensor, segment_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return sum and size of each segment, and each token's place in them; its tokens need not be adjacent."""
    _, index_N = torch.unique(segment_N, return_inverse=True)
    count_S = torch.bincount(index_N)
    return values_N.new_zeros(len(count_S)).index_add(0, index_N, values_N), count_S, index_N
