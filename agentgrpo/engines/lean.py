"""A shorter way through decoders of the Llama family: the same modules and weights, a tenth of the operations.

A pass of a small model takes longer to ask for than to compute. Here a layer asks for its seven matrix products and for
little else; norms and rotations are compiled loops. It is used where a decoder has exactly the parts of that family and
gives the numbers of the model's own code; everything else goes through that code.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.activations import SiLUActivation
from transformers.modeling_outputs import BaseModelOutputWithPast

from agentgrpo.engines import kernel
from agentgrpo.engines.attention import Feed, attend

_DECODER = {"embed_tokens", "layers", "norm", "rotary_emb"}
_LAYER = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
_HEAD_NORMS = {"q_norm", "k_norm"}
_MLP = {"gate_proj", "up_proj", "down_proj", "act_fn"}
_NONE = np.zeros(0, np.float32)


class LeanDecoder:
    """Stands in for a decoder's `forward` while a slot cache is attended to."""

    def __init__(self, decoder: nn.Module, head_dim: int) -> None:
        self._decoder, self._head_dim = decoder, head_dim

    @classmethod
    def of(cls, model: PreTrainedModel) -> LeanDecoder | None:
        """Return it for a model that has the parts of the family and is in float32 on the CPU, else None."""
        decoder: Any = model.base_model
        if model.device.type != "cpu" or model.dtype != torch.float32 or _children(decoder) != _DECODER:
            return None
        is_plain = all(
            _children(layer) == _LAYER
            and _children(layer.self_attn) - _HEAD_NORMS == _ATTENTION
            and _children(layer.mlp) == _MLP
            and isinstance(layer.mlp.act_fn, nn.SiLU | SiLUActivation)
            for layer in decoder.layers
        )
        config = model.config
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return cls(decoder, int(head_dim)) if is_plain else None

    def __call__(self, *, input_ids: Tensor, position_ids: Tensor, feed: Feed, **_: Any) -> BaseModelOutputWithPast:
        """Return the hidden states [1, N, D] of N tokens."""
        decoder = cast(Any, self._decoder)
        hidden = decoder.embed_tokens(input_ids[0])
        cos, sin = (table[0].numpy() for table in decoder.rotary_emb(hidden, position_ids))
        for number, layer in enumerate(decoder.layers):
            attention, mlp, normed = layer.self_attn, layer.mlp, self._norm(layer.input_layernorm, hidden)
            query, key = (
                self._turned(project(normed), getattr(attention, norm, None), cos, sin)
                for project, norm in ((attention.q_proj, "q_norm"), (attention.k_proj, "k_norm"))
            )
            value = attention.v_proj(normed).view(len(hidden), -1, self._head_dim)
            attended = attend(feed, number, query, key, value, attention.scaling)
            hidden = attention.o_proj(attended.flatten(1)).add_(hidden)
            normed = self._norm(layer.post_attention_layernorm, hidden)
            hidden = mlp.down_proj(F.silu(mlp.gate_proj(normed)).mul_(mlp.up_proj(normed))).add_(hidden)
        out: Any = self._norm(decoder.norm, hidden)[None]
        return BaseModelOutputWithPast(last_hidden_state=out)

    def _norm(self, norm: Any, hidden: Tensor) -> Tensor:
        out = torch.empty_like(hidden)
        kernel.rms_norm(hidden.numpy(), norm.weight.numpy(), norm.variance_epsilon, out.numpy())
        return out

    def _turned(self, states: Tensor, norm: Any, cos: Any, sin: Any) -> Tensor:
        """Return projected states [N, H D] as [N, H, D], normed if the model does that, and turned by position."""
        weight = _NONE if norm is None else norm.weight.numpy()
        heads = states.view(len(states), -1, self._head_dim)
        kernel.turn(heads.numpy(), weight, 0.0 if norm is None else norm.variance_epsilon, cos, sin)
        return heads


def _children(module: nn.Module) -> set[str]:
    return {name for name, _ in module.named_children()}
