"""The learner's causal attention on the CPU: some queries at a time, so that keys ahead of them all cost nothing.

Query heads that share keys are multiplied with them as one. It knows no batches: what a query sees is what stands
before it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from agentgrpo import causal_lm
from agentgrpo.learner.forward import is_close, probe

_NAME = "agentgrpo_causal"
_QUERIES = 128  # at a time


def causal_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend with the last T of L positions to those up to each.

    Shapes: query [B, H, T, D]; key and value [B, K, L, D] with H a multiple of K; returns [B, T, H, D].
    """
    batch, heads, count, width = query.shape
    groups, before = heads // key.shape[1], key.shape[2] - count
    parts = []
    for first in range(0, count, _QUERIES):
        end = min(count, first + _QUERIES)
        seen, size = before + end, end - first
        out = F.scaled_dot_product_attention(
            query[:, :, first:end].reshape(batch, -1, groups * size, width),
            key[:, :, :seen],
            value[:, :, :seen],
            attn_mask=_mask(size, seen, groups, query.dtype),
            dropout_p=dropout,
            scale=scaling,
        )
        parts.append(out.reshape(batch, heads, size, -1))
    return torch.cat(parts, dim=2).transpose(1, 2), None


@lru_cache(maxsize=32)  # every layer of a pass asks for the same
def _mask(size: int, seen: int, groups: int, dtype: torch.dtype) -> Tensor:
    """Return [groups * size, seen]: 0 where one of the last `size` positions may see another, else minus infinity."""
    is_hidden = torch.ones(size, seen, dtype=torch.bool).triu(seen - size + 1)
    return torch.zeros(size, seen, dtype=dtype).masked_fill_(is_hidden, -torch.inf).repeat(groups, 1)


def use_causal_attention(model: PreTrainedModel) -> None:
    """Let a model on the CPU attend this way, if its attention is of the plain kind; no other number changes."""
    if model.device.type != "cpu" or not causal_lm.has_plain_attention(model):
        return
    own, expected = model.config._attn_implementation, probe(model)
    try:
        model.set_attn_implementation(_NAME)
        found = probe(model)
    except (AttributeError, RuntimeError, TypeError, ValueError):  # attention of its own, which cannot be replaced
        found = torch.full_like(expected, torch.nan)
    if not is_close(found, expected, model.dtype):
        model.set_attn_implementation(own)


ALL_ATTENTION_FUNCTIONS.register(_NAME, causal_attention)
