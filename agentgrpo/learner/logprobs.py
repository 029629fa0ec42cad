"""Logprobs of chosen tokens and the entropy of their distributions, without keeping logits over the vocabulary.

It knows neither the model that made the hidden states nor which tokens are trained.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def selected_logprobs(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    token_ids_N: Tensor,
    *,
    temperature: float = 1.0,
    softcap: float | None = None,
    chunk: int = 8192,
) -> tuple[Tensor, Tensor]:
    """Return the logprob of each chosen token and the entropy of the distribution it was chosen from.

    Equal to `log_softmax(logits / temperature)` at the token, where `logits = hidden @ weight.T + bias`, soft-capped by
    `softcap * tanh(logits / softcap)` before the temperature (Gemma 2). The vocabulary is taken `chunk` entries at a
    time and the chunks' logsumexps are joined; when there are several, each chunk's logits are recomputed in the
    backward pass, so that memory is N x chunk, never N x V. Everything is computed in fp32 (or wider inputs' own
    dtype), also from bf16 inputs and inside autocast: logits rounded to bf16 would move logprobs by 1e-2.

    Args:
        hidden_ND: Hidden states that predict the tokens.
        weight_VD: The output embedding.
        bias_V: Its bias, if it has one.
        token_ids_N: The chosen tokens.
        temperature: Of the sampling the logprobs are compared with; greater than 0.
        softcap: The model's final logit soft-cap, if it has one.
        chunk: Vocabulary entries per chunk.

    Returns:
        Logprobs with gradient and entropies (in nats) without, both of length N.

    Raises:
        ValueError: A token id is not in the vocabulary, or the temperature or chunk is not positive.
    """
    _check(token_ids_N, len(weight_VD), temperature, chunk)
    hidden_ND = hidden_ND.to(torch.promote_types(hidden_ND.dtype, torch.float32))
    # split, not slices: its backward writes each weight gradient once instead of adding up full-size ones
    weights = torch.split(weight_VD, chunk)
    biases = torch.split(bias_V, chunk) if bias_V is not None else [None] * len(weights)
    parts = []
    for i, (weight_CD, bias_C) in enumerate(zip(weights, biases, strict=True)):
        arguments = (hidden_ND, weight_CD, bias_C, token_ids_N - i * chunk, temperature, softcap)
        parts.append(_chunk(*arguments) if len(weights) == 1 else _recomputed_chunk(*arguments))
    return _join(parts)


def _check(token_ids_N: Tensor, vocabulary: int, temperature: float, chunk: int) -> None:
    if temperature <= 0 or chunk < 1:
        raise ValueError(f"temperature is {temperature} and chunk {chunk}, expected both greater than 0")
    if token_ids_N.numel() and not 0 <= int(token_ids_N.min()) <= int(token_ids_N.max()) < vocabulary:
        span = f"{int(token_ids_N.min())}..{int(token_ids_N.max())}"
        raise ValueError(f"token ids are in {span}, expected 0..{vocabulary - 1}: pass trained tokens only, no padding")


def _chunk(
    hidden_ND: Tensor,
    weight_CD: Tensor,
    bias_C: Tensor | None,
    local_ids_N: Tensor,
    temperature: float,
    softcap: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the chunk's logsumexp, the chosen logit (0 if the token is in another chunk) and the chunk's entropy."""
    with torch.autocast(hidden_ND.device.type, enabled=False):
        logits_NC = hidden_ND @ weight_CD.to(hidden_ND.dtype).T
    if bias_C is not None:
        logits_NC = logits_NC + bias_C
    if softcap is not None:
        logits_NC = softcap * torch.tanh(logits_NC / softcap)
    logits_NC = logits_NC / temperature
    is_here_N = (local_ids_N >= 0) & (local_ids_N < len(weight_CD))
    chosen_N = logits_NC.gather(1, local_ids_N.clamp(0, len(weight_CD) - 1).unsqueeze(1)).squeeze(1)
    logsumexp_N, chosen_N = logits_NC.logsumexp(1), chosen_N.where(is_here_N, 0.0)
    with torch.no_grad():  # last: the backward pass stops recomputing before it
        log_p_NC = logits_NC - logsumexp_N.unsqueeze(1)
        entropy_N = -(log_p_NC.exp() * log_p_NC).sum(1)
    return logsumexp_N, chosen_N, entropy_N


def _recomputed_chunk(*arguments: object) -> tuple[Tensor, Tensor, Tensor]:
    part: tuple[Tensor, Tensor, Tensor] = checkpoint(_chunk, *arguments, use_reentrant=False, preserve_rng_state=False)
    return part


def _join(parts: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return logprobs and entropies over the whole vocabulary from those of its chunks."""
    logsumexps, chosen, entropies = (torch.stack(values) for values in zip(*parts, strict=True))
    logsumexp_N = logsumexps.logsumexp(0)
    with torch.no_grad():  # the chain rule of entropy: which chunk, then which entry of it
        log_p = logsumexps - logsumexp_N
        entropy_N = (log_p.exp() * (entropies - log_p)).sum(0)
    return chosen.sum(0) - logsumexp_N, entropy_N
