"""The learner's forward pass: a microbatch in, logprobs of its trained tokens out.

The prefix a microbatch shares is computed once, with gradient. It knows neither adapters nor losses.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer

from agentgrpo import causal_lm
from agentgrpo.learner.batch import Microbatch
from agentgrpo.learner.logprobs import selected_logprobs


def trained_logprobs(
    model: PreTrainedModel, batch: Microbatch, *, temperature: float = 1.0, share_prefix: bool = True
) -> tuple[Tensor, Tensor]:
    """Return logprobs [N] of the trained tokens and, without gradient, entropies [N] where they were sampled."""
    hidden = suffix_hidden(model, batch, share_prefix=share_prefix)[batch.row_N, batch.column_N]
    weight, bias = causal_lm.head_weight(model)
    return selected_logprobs(
        hidden, weight, bias, batch.target_N, temperature=temperature, softcap=causal_lm.softcap(model)
    )


def suffix_hidden(model: PreTrainedModel, batch: Microbatch, *, share_prefix: bool = True) -> Tensor:
    """Return hidden states [B, T, D] of the suffixes.

    The suffixes attend to the keys and values of the one prefix, so the result is that of whole sequences. Right
    padding needs no mask: under the causal mask nothing that counts can see it.
    """
    start = len(batch.prefix_ids)
    if start and not share_prefix:
        prefix = batch.prefix_ids.expand(len(batch.suffix_ids), start)
        whole = causal_lm.hidden_states(model, torch.cat([prefix, batch.suffix_ids], dim=1), use_cache=False)
        return whole[:, start:]
    positions = torch.arange(start, start + batch.suffix_ids.shape[1], device=batch.suffix_ids.device)[None]
    cache = _prefix_cache(model, batch) if start else None
    return causal_lm.hidden_states(
        model, batch.suffix_ids, position_ids=positions, past_key_values=cache, use_cache=cache is not None
    )


def _prefix_cache(model: PreTrainedModel, batch: Microbatch) -> DynamicCache:
    cache = DynamicCache()
    causal_lm.hidden_states(model, batch.prefix_ids[None], past_key_values=cache, use_cache=True)
    for layer in cast(list[DynamicLayer], cache.layers):
        layer.keys = cast(Tensor, layer.keys).expand(len(batch.suffix_ids), -1, -1, -1)
        layer.values = cast(Tensor, layer.values).expand(len(batch.suffix_ids), -1, -1, -1)
    return cache
