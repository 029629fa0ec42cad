"""How many bytes a model's parts take, from its config.json alone. Pure functions."""

from __future__ import annotations

from agentgrpo.types import JsonObject

_HEAD_COPIES = 8  # logits, divided by the temperature, their logprobs and probabilities, and gradients of these
_HEAD_CHUNK = 8192  # vocabulary entries the learner's head computes at a time


def cache_column(model: JsonObject, dtype_bytes: int) -> int:
    """Return the bytes of the keys and values of one token."""
    heads = int(model["num_attention_heads"])
    kv_heads = int(model.get("num_key_value_heads") or heads)
    head_dim = int(model.get("head_dim") or model["hidden_size"] // heads)
    return 2 * int(model["num_hidden_layers"]) * kv_heads * head_dim * dtype_bytes


def activations(model: JsonObject, *, tokens: int, rank: int, dtype_bytes: int, checkpointing: bool) -> float:
    """Return the bytes a forward pass of the learner keeps for its backward pass, and what that one adds at its height.

    Per token and layer: two norms (their inputs and what they compute of them), two sums, queries and keys normed and
    turned, keys and values repeated for every head, the attention's output, the gate, its activation, the other factor
    and their product, and the adapter's inner values.
    """
    hidden, layers = int(model["hidden_size"]), int(model["num_hidden_layers"])
    heads = int(model["num_attention_heads"])
    head_dim = int(model.get("head_dim") or hidden // heads)
    inner = int(model.get("intermediate_size") or 4 * hidden)
    kv_heads = int(model.get("num_key_value_heads") or heads)
    attention = head_dim * (5 * (heads + kv_heads) + 4 * heads)
    layer = 8 * hidden + attention + 4 * inner + 7 * rank
    kept = layer + layers * hidden if checkpointing else layers * layer
    backward = 3 * inner + 4 * hidden
    return float(tokens) * (kept + backward) * dtype_bytes


def head(vocabulary: int, trained_tokens: int) -> float:
    """Return the bytes of the logits of the trained tokens, in float32, and of what is computed from them."""
    return float(trained_tokens) * min(vocabulary, _HEAD_CHUNK) * 4 * _HEAD_COPIES
