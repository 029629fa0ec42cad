"""The KV cache of the embedded engine: one slot per episode, each with a list of blocks of 32 positions from a pool.

It knows tensors and positions only. A query at position p sees exactly positions 0..p of its own slot, so whatever
finite numbers were written behind them do not matter, and sequences join and leave without a copy. Memory goes by what
is cached, not by the longest sequence (paged attention, Kwon et al. 2023).
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from agentgrpo.engines.kernel import BLOCK

Length = TypeVar("Length", int, NDArray[np.int64])


def blocks_for(length: Length) -> Length:
    """Return how many blocks hold so many positions: of one sequence, or of each of many [N]."""
    return -(-length // BLOCK)


class SlotCache:
    """Keys [blocks, K, D, BLOCK] and values [blocks, K, BLOCK, D] per layer, grown on demand.

    `table` [slots, most] says whose the blocks are. The lowest free block is taken first, so that what is in use lies
    close together.
    """

    def __init__(self, model: PreTrainedModel, *, slots: int, max_length: int) -> None:
        config = model.config
        heads = config.num_attention_heads
        self.layer_count = int(config.num_hidden_layers)
        self.kv_heads = int(getattr(config, "num_key_value_heads", None) or heads)
        self.groups = heads // self.kv_heads
        self.head_dim = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
        self.device = model.device
        self.dtype = torch.float32 if self.device.type == "cpu" else model.dtype  # what the kernel reads
        self.table = np.full((slots, blocks_for(max_length)), -1, dtype=np.int64)
        self.blocks = 0
        self._free: list[int] = []  # a heap
        nothing = torch.zeros(0, self.kv_heads, self.head_dim, BLOCK, device=self.device, dtype=self.dtype)
        self.keys = [nothing] * self.layer_count
        self.values = [nothing.transpose(2, 3).contiguous()] * self.layer_count

    @property
    def bytes_per_token(self) -> int:
        """Memory one token of one sequence takes."""
        return 2 * self.layer_count * self.kv_heads * self.head_dim * self.dtype.itemsize

    def reserve(self, slots: NDArray[np.int64], positions: NDArray[np.int64]) -> None:
        """Let these slots have blocks for these positions [N]; what is cached stays."""
        columns = positions // BLOCK
        is_missing = self.table[slots, columns] < 0
        if not is_missing.any():
            return
        missing = np.unique(np.stack([slots, columns])[:, is_missing], axis=1)
        self._grow(missing.shape[1] - len(self._free))
        for slot, column in missing.T.tolist():
            self.table[slot, column] = heapq.heappop(self._free)

    def _grow(self, more: int) -> None:
        if more <= 0:
            return
        wanted = min(max(self.blocks + more, self.blocks * 3 // 2), self.table.size)
        for tensors in (self.keys, self.values):
            for layer, old in enumerate(tensors):  # one by one: memory for both holds one layer only
                tensors[layer] = self._grown(old, wanted)
        for block in range(self.blocks, wanted):
            heapq.heappush(self._free, block)
        self.blocks = wanted

    def _grown(self, old: Tensor, blocks: int) -> Tensor:
        if len(old) >= blocks:
            return old  # an earlier attempt ran out of memory after this layer
        new = old.new_zeros(blocks, *old.shape[1:])
        new[: len(old)] = old
        return new

    def trim(self, slot: int, length: int) -> None:
        """Give back the blocks of a slot behind its first `length` positions."""
        behind = self.table[slot, blocks_for(length) :]
        for block in behind[behind >= 0].tolist():
            heapq.heappush(self._free, block)
        behind[:] = -1

    def clear(self, slot: int) -> None:
        """Forget what a slot holds: numbers that are none spoil whoever has its blocks next, also where hidden."""
        held = torch.from_numpy(self.table[slot][self.table[slot] >= 0])
        for tensor in (*self.keys, *self.values):
            tensor[held] = 0
        self.trim(slot, 0)

    def copy(self, copies: Sequence[tuple[int, int, int]]) -> None:
        """Let slots hold what others hold, all at once: (source, target, at least so many positions) each."""
        sources, targets = [], []
        for source, target, length in copies:
            columns = np.arange(blocks_for(length))
            self.reserve(np.full(len(columns), target), columns * BLOCK)
            sources.append(self.table[source, columns])
            targets.append(self.table[target, columns])
        read, written = (torch.from_numpy(np.concatenate(ids)).to(self.device) for ids in (sources, targets))
        for tensor in (*self.keys, *self.values):
            tensor[written] = tensor[read]
