"""The KV cache of the embedded engine: one slot per episode, position j of a sequence at place j % 64 of its block.

It knows tensors and positions only. A query at position p sees exactly positions 0..p of its own slot, so whatever
finite numbers were written behind them do not matter, and sequences join and leave without a copy.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

BLOCK = 64  # positions in a block of keys
Length = TypeVar("Length", int, NDArray[np.int64])


def blocks_for(length: Length) -> Length:
    """Return how many blocks hold so many positions: of one sequence, or of each of many [N]."""
    return -(-length // BLOCK)


class SlotCache:
    """Keys and values [blocks, slots, K, BLOCK, D] per layer, grown on demand.

    Blocks come first, so that one block of the leading slots lies in memory as attention reads it: twice as fast on the
    CPU as sequences that lie one behind the other.
    """

    def __init__(self, model: PreTrainedModel, *, slots: int, max_length: int) -> None:
        config = model.config
        heads = config.num_attention_heads
        self.layer_count = int(config.num_hidden_layers)
        self.kv_heads = int(getattr(config, "num_key_value_heads", None) or heads)
        self.groups = heads // self.kv_heads
        self.head_dim = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
        self.slots, self.max_blocks, self.blocks = slots, blocks_for(max_length), 0
        self.device, self.dtype = model.device, model.dtype
        nothing = torch.zeros(0, slots, self.kv_heads, BLOCK, self.head_dim, device=self.device, dtype=self.dtype)
        self.keys = [nothing] * self.layer_count
        self.values = [nothing] * self.layer_count

    @property
    def bytes_per_token(self) -> int:
        """Memory one token of one sequence takes."""
        return 2 * self.layer_count * self.kv_heads * self.head_dim * self.dtype.itemsize

    def reserve(self, length: int) -> None:
        """Grow so that every slot can hold `length` positions; what is cached stays."""
        wanted = blocks_for(length)
        if wanted <= self.blocks:
            return
        wanted = max(wanted, min(2 * self.blocks, self.max_blocks))
        for tensors in (self.keys, self.values):
            for layer, old in enumerate(tensors):  # one by one: memory for both holds one layer only
                tensors[layer] = self._grown(old, wanted)
        self.blocks = wanted

    def _grown(self, old: Tensor, blocks: int) -> Tensor:
        if len(old) >= blocks:
            return old  # an earlier attempt ran out of memory after this layer
        new = old.new_zeros(blocks, *old.shape[1:])
        new[: len(old)] = old
        return new

    def rows(self, slots: NDArray[np.int64], positions: NDArray[np.int64]) -> Tensor:
        """Return where `write` puts tokens at these slots and positions [N]: rows [K N] of a layer as [rows, D]."""
        first = (positions // BLOCK * self.slots + slots) * self.kv_heads
        rows = (first + np.arange(self.kv_heads)[:, None]) * BLOCK + positions % BLOCK
        return torch.from_numpy(rows.ravel()).to(self.device)

    def write(self, layer: int, rows: Tensor, keys: Tensor, values: Tensor) -> None:
        """Store keys and values [K, N, D] of tokens at the places that `rows` gave for them."""
        for tensor, new in ((self.keys[layer], keys), (self.values[layer], values)):
            tensor.view(-1, self.head_dim).index_copy_(0, rows, new.reshape(-1, self.head_dim))

    def clear(self, slots: Tensor) -> None:
        """Forget what slots hold: numbers that are none spoil whoever sits there next, also where they are hidden."""
        for tensor in (*self.keys, *self.values):
            tensor[:, slots] = 0

    def copy(self, sources: Tensor, targets: Tensor, length: int) -> None:
        """Let slots `targets` [R] hold what `sources` [R] hold, at least the first `length` positions of it."""
        count = blocks_for(length)
        for tensor in (*self.keys, *self.values):
            tensor[:count, targets] = tensor[:count, sources]
