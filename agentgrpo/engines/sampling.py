"""Which token comes next: temperature, top-k, top-p, and the logprob of the distribution sampled from.

Pure functions of tensors. Random numbers are counter-based (seed, token index): a request draws the same numbers alone
or in any batch, and no global generator is ever touched.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_RUN = 32


def mix64(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble uint64 counters (the finalizer of SplitMix64, Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed: NDArray[np.uint64] = value ^ (value >> np.uint64(31))
    return mixed


def uniforms(seeds_B: NDArray[np.uint64], counters_B: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Return one number in [0, 1) per (seed, counter), float64 [B]."""
    with np.errstate(over="ignore"):
        state = mix64(seeds_B.astype(np.uint64) * _GOLDEN + _GOLDEN)
        bits = mix64(state + counters_B.astype(np.uint64) * _GOLDEN)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def probabilities(logits_BV: Tensor, temperature_B: Tensor, top_k_B: Tensor, top_p_B: Tensor) -> Tensor:
    """Return the probabilities [B, V] of the distribution each row samples from.

    Temperature first, then top-k, then top-p on what is left (the order of vLLM and transformers). A temperature of 0
    leaves the row unscaled: greedy rows report the model's own logprobs.
    """
    scale = torch.where(temperature_B > 0, temperature_B, 1.0)
    is_scaled = bool((scale != 1).any())  # a division by one is a pass over all logits for nothing
    shares = torch.softmax(logits_BV.float() / scale[:, None] if is_scaled else logits_BV.float(), dim=-1)
    is_cut = (top_k_B > 0) | (top_p_B < 1)
    if bool(is_cut.any()):
        shares[is_cut] = _truncate(shares[is_cut], top_k_B[is_cut], top_p_B[is_cut])
    return shares


def _truncate(shares: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    ranked, order = shares.sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(ranked.shape[-1], device=ranked.device)[None]
    keep = (top_k[:, None] <= 0) | (rank < top_k[:, None])
    ranked = ranked.masked_fill(~keep, 0.0)
    ranked = ranked / ranked.sum(-1, keepdim=True)
    mass_before = ranked.cumsum(-1) - ranked
    # Off means off: rounded, the mass before the last tokens can reach 1.
    keep &= (mass_before < top_p[:, None]) | (top_p[:, None] >= 1) | (rank == 0)
    ranked = ranked.masked_fill(~keep, 0.0)
    return torch.empty_like(ranked).scatter_(-1, order, ranked / ranked.sum(-1, keepdim=True))


def sample(shares_BV: Tensor, uniforms_B: Tensor, greedy_B: Tensor) -> tuple[Tensor, Tensor]:
    """Return token ids [B] and their logprobs [B]: the arg max where greedy, else by inverting the distribution.

    Inverted in two steps, first which run of tokens, then which of the run: a sum over a vocabulary vectorizes, a
    cumulative sum does not.
    """
    wide = shares_BV.dtype if shares_BV.device.type == "mps" else torch.float64
    batch, vocabulary = shares_BV.shape
    whole, rest = shares_BV.split([vocabulary - vocabulary % _RUN, vocabulary % _RUN], dim=1)
    sums = whole.reshape(batch, vocabulary // _RUN, _RUN).sum(-1), rest.sum(-1, keepdim=True)
    ends = torch.cat([shares_BV.new_zeros(batch, 1), *sums], dim=1).to(wide).cumsum(-1)  # [B, 1 + runs]: from 0 on
    threshold = uniforms_B.to(wide)[:, None] * ends[:, -1:]
    run = torch.searchsorted(ends, threshold, right=True).clamp_(max=-(-vocabulary // _RUN)).sub_(1)
    columns = run * _RUN + torch.arange(_RUN, device=run.device)
    inside = shares_BV.gather(1, columns.clamp(max=vocabulary - 1)).to(wide).mul_(columns < vocabulary).cumsum_(-1)
    # Rounding may step over the last token of a run: never over the last that has a probability.
    threshold = torch.minimum(threshold - ends.gather(1, run), inside[:, -1:] * (1 - 8 * torch.finfo(wide).eps))
    tokens = run * _RUN + torch.searchsorted(inside, threshold, right=True)
    tokens = tokens.squeeze(1).clamp_(max=vocabulary - 1)  # where a probability is no number
    if bool(greedy_B.any()):
        tokens = torch.where(greedy_B, shares_BV.argmax(-1), tokens)
    return tokens, shares_BV.gather(-1, tokens[:, None]).squeeze(-1).log()
