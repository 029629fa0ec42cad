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

_PREFIX, _SUFFIX = 16, 4  # tokens of what a model is tried with


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


def can_share_prefix(model: PreTrainedModel) -> bool:
    """Whether keys and values are all that a model keeps of a prefix. It is tried: recurrent layers keep more."""
    try:
        shared = probe(model)
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError):  # no cache of this kind
        return False
    return is_close(shared, probe(model, share_prefix=False), model.dtype)


@torch.no_grad()
def probe(model: PreTrainedModel, *, share_prefix: bool = True) -> Tensor:
    """Return the hidden states of two short sequences that begin alike."""
    ids, none = torch.arange(_PREFIX + 2 * _SUFFIX, device=model.device) % model.config.vocab_size, torch.zeros(0)
    empty = none.long()
    batch = Microbatch(
        prefix_ids=ids[:_PREFIX],
        suffix_ids=ids[_PREFIX:].view(2, _SUFFIX),
        row_N=empty,
        column_N=empty,
        target_N=empty,
        behaviour_N=none,
        old_N=none,
        advantage_N=none,
        episode_N=empty,
        turn_N=empty,
    )
    is_training = model.training
    model.eval()
    try:
        return suffix_hidden(model, batch, share_prefix=share_prefix).float()
    finally:
        model.train(is_training)


def is_close(found: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    """Whether two computations of hidden states differ by no more than rounding; numbers that are none never do."""
    tolerance = 1e-4 if dtype == torch.float32 else 0.05
    return bool((found - expected).abs().max() <= tolerance * expected.abs().max())


def _prefix_cache(model: PreTrainedModel, batch: Microbatch) -> DynamicCache:
    cache = DynamicCache()
    causal_lm.hidden_states(model, batch.prefix_ids[None], past_key_values=cache, use_cache=True)
    for layer in cast(list[DynamicLayer], cache.layers):
        layer.keys = cast(Tensor, layer.keys).expand(len(batch.suffix_ids), -1, -1, -1)
        layer.values = cast(Tensor, layer.values).expand(len(batch.suffix_ids), -1, -1, -1)
    return cache
