"""The weight of each token in the loss of a train step.

It knows neither the losses nor how the step was cut into microbatches: every denominator is of the whole step.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor

Aggregation: TypeAlias = Literal["token_mean", "sequence_mean", "constant"]


def token_weights(
    episode_N: Tensor,
    *,
    kind: Aggregation,
    total_tokens: int,
    total_episodes: int,
    tokens_per_episode: Tensor,
    max_tokens: int | None = None,
) -> Tensor:
    """Return the float32 weight of each token: the step's loss is `sum(weight * loss)` over all its microbatches.

    - `token_mean`: `1 / total_tokens` (DAPO, arXiv 2503.14476). Long episodes weigh more.
    - `sequence_mean`: `1 / (E |o_i|)` (GRPO, arXiv 2402.03300). Episodes weigh the same, however long.
    - `constant`: `1 / (E max_tokens)` (Dr. GRPO, arXiv 2503.20783). A token weighs the same in any episode and step.

    |o_i| counts the trained tokens of all turns and forks of an episode. Episodes that train no token (filtered,
    masked) belong in no count; TRL's "grpo" counts their rows. TRL's "bnpo" (the microbatch's own token count) is left
    out on purpose: it depends on the split.

    Args:
        episode_N: Episode index of each token of this microbatch, an index into `tokens_per_episode`.
        kind: The denominator.
        total_tokens: Trained tokens of the step.
        total_episodes: E, the step's episodes with at least one trained token.
        tokens_per_episode: Trained tokens of each episode in the whole step.
        max_tokens: The token budget of an episode; needed by `constant`, unused by the others.

    Raises:
        ValueError: A denominator is missing or not positive.
    """
    if kind == "token_mean":
        return _filled(episode_N, _positive("total_tokens", total_tokens))
    episodes = _positive("total_episodes", total_episodes)
    if kind == "constant":
        return _filled(episode_N, episodes * _positive("max_tokens", max_tokens))
    lengths_N = tokens_per_episode.to(episode_N.device)[episode_N]
    return (1.0 / (lengths_N.cpu().double() * episodes)).float().to(episode_N.device)


def gradient_scale(dtype: torch.dtype, denominator: int) -> float:
    """Return what the loss is multiplied by for its backward pass, and the gradient divided by after it.

    The mean over a train step leaves each token a gradient of about `1 / denominator`, and float16 has nothing below
    6e-8: at 100,000 tokens half of the gradient is lost. So its backward pass takes about the sum (loss scaling, arXiv
    1710.03740, by a power of two, which rounds nothing). Other dtypes need none: 1.
    """
    return 2.0 ** (denominator.bit_length() - 1) if dtype == torch.float16 and denominator else 1.0


def _filled(like_N: Tensor, denominator: int) -> Tensor:
    return torch.full(like_N.shape, 1.0 / denominator, dtype=torch.float32, device=like_N.device)


def _positive(name: str, value: int | None) -> int:
    if value is None or value < 1:
        raise ValueError(f"{name} is {value}, expected at least 1: count the trained tokens and episodes of the step")
    return value
