"""The KV cache of the embedded engine: one slot per episode, position j of a sequence at offset j % 64 of its block.

It knows tensors and positions only. A query at position p sees exactly positions 0..p of its own slot, so whatever
else was written there lies behind everything that is read, and sequences join and leave without a copy.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

BLOCK = 64  # positions in a block of keys


def blocks_for(length: int) -> int:
    """Return how many blocks hold so many positions."""
    return -(-length // BLOCK)


class SlotCache:
    """Keys and values [blocks, slots, K, BLOCK, D] per layer, grown on demand.

    Blocks come first, so that one block of the leading slots is a contiguous batch of matrices: attention multiplies
    block by block, without gathering, in shapes that do not depend on how long a sequence or its neighbours are.
    """

    def __init__(self, model: PreTrainedModel, *, slots: int, max_length: int) -> None:
        config = model.config
        heads = config.num_attention_heads
        self.layer_count = int(config.num_hidden_layers)
        self.kv_heads = int(getattr(config, "num_key_value_heads", None) or heads)
        self.head_dim = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
        self.slots, self.max_blocks, self.blocks = slots, blocks_for(max_length), 0
        self.device, self.dtype = model.device, model.dtype
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    @property
    def bytes_per_block(self) -> int:
        """Memory one block of all slots takes."""
        per_token = 2 * self.layer_count * self.kv_heads * self.head_dim * self.dtype.itemsize
        return per_token * BLOCK * self.slots

    def reserve(self, length: int) -> None:
        """Grow so that every slot can hold `length` positions; what is cached stays."""
        wanted = blocks_for(length)
        if wanted <= self.blocks:
            return
        wanted = max(wanted, min(2 * self.blocks, self.max_blocks))
        nothing: list[Tensor | None] = [None] * self.layer_count
        self.keys = [self._grown(t, wanted) for t in self.keys or nothing]
        self.values = [self._grown(t, wanted) for t in self.values or nothing]
        self.blocks = wanted

    def _grown(self, old: Tensor | None, blocks: int) -> Tensor:
        shape = (blocks, self.slots, self.kv_heads, BLOCK, self.head_dim)
        new = torch.zeros(shape, device=self.device, dtype=self.dtype)
        if old is not None:
            new[: len(old)] = old
        return new

    def write(self, layer: int, slots: Tensor, positions: Tensor, keys: Tensor, values: Tensor) -> None:
        """Store keys and values [K, N, D] of tokens at these slots [N] and positions [N]."""
        blocks, offsets = positions // BLOCK, positions % BLOCK
        self.keys[layer][blocks, slots, :, offsets] = keys.transpose(0, 1)
        self.values[layer][blocks, slots, :, offsets] = values.transpose(0, 1)

    def copy(self, sources: Tensor, targets: Tensor, length: int) -> None:
        """Let slots `targets` [R] hold what `sources` [R] hold, at least the first `length` positions of it."""
        count = blocks_for(length)
        for tensor in (*self.keys, *self.values):
            tensor[:count, targets] = tensor[:count, sources]
