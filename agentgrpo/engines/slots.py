"""The KV cache of the embedded engine: one row (slot) per episode, position j of a sequence in column j.

It knows tensors and positions only. A query at position p sees exactly columns 0..p of its own row, so padding and
rows that are idle need no bookkeeping: whatever they write lies behind every position that is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

_COLUMNS = 64  # the cache grows by multiples of this


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedPrefix:
    """Keys and values [K, P, D] per layer of a prefix many sequences begin with."""

    token_ids: tuple[int, ...]
    layers: tuple[tuple[Tensor, Tensor], ...]


class SlotCache:
    """Keys and values [slots, K, columns, D] per layer, grown on demand up to `max_columns`."""

    def __init__(self, model: PreTrainedModel, *, slots: int, max_columns: int) -> None:
        config = model.config
        heads = config.num_attention_heads
        self.layer_count = int(config.num_hidden_layers)
        self.kv_heads = int(getattr(config, "num_key_value_heads", None) or heads)
        self.head_dim = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
        self.slots, self.max_columns, self.columns = slots, max_columns, 0
        self.device, self.dtype = model.device, model.dtype
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    @property
    def bytes_per_column(self) -> int:
        """Memory one token of one sequence takes."""
        return 2 * self.layer_count * self.kv_heads * self.head_dim * self.dtype.itemsize

    def reserve(self, columns: int) -> None:
        """Grow so that every slot has at least `columns` columns; what is cached stays."""
        if columns <= self.columns:
            return
        wanted = max(columns, min(2 * self.columns, self.max_columns))
        wanted = min(-(-wanted // _COLUMNS) * _COLUMNS, max(self.max_columns, columns))
        nothing: list[Tensor | None] = [None] * self.layer_count
        self.keys = [self._grown(t, wanted) for t in self.keys or nothing]
        self.values = [self._grown(t, wanted) for t in self.values or nothing]
        self.columns = wanted

    def _grown(self, old: Tensor | None, columns: int) -> Tensor:
        shape = (self.slots, self.kv_heads, columns, self.head_dim)
        new = torch.zeros(shape, device=self.device, dtype=self.dtype)
        if old is not None:
            new[:, :, : old.shape[2]] = old
        return new

    def read_prefix(self, slot: int, token_ids: tuple[int, ...]) -> SharedPrefix:
        """Return a copy of the first columns of a slot."""
        n = len(token_ids)
        layers = tuple(
            (k[slot, :, :n].clone(), v[slot, :, :n].clone()) for k, v in zip(self.keys, self.values, strict=True)
        )
        return SharedPrefix(token_ids=token_ids, layers=layers)

    def write_prefix(self, slots: Tensor, prefix: SharedPrefix, length: int) -> None:
        """Fill the first `length` columns of these slots [R] from a prefix."""
        for (keys, values), k, v in zip(prefix.layers, self.keys, self.values, strict=True):
            k[slots, :, :length] = keys[:, :length]
            v[slots, :, :length] = values[:, :length]


class SlotView(Cache):
    """One forward pass over some slots: writes T new columns per row and reads all columns up to `width`."""

    def __init__(self, cache: SlotCache, slots: Tensor, positions: Tensor, width: int) -> None:
        super().__init__(layers=[])
        self._cache, self._slots, self._positions, self._width = cache, slots, positions, width
        # Slots 0..R-1 in order need no gather: reading them is a view.
        self._is_leading = bool((slots == torch.arange(len(slots), device=slots.device)).all())

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        """Write keys and values [R, K, T, D] at their positions [R, T] and return those visible [R, K, width, D]."""
        keys, values = self._cache.keys[layer_idx], self._cache.values[layer_idx]
        rows = self._slots[:, None]
        keys[rows, :, self._positions] = key_states.transpose(1, 2)
        values[rows, :, self._positions] = value_states.transpose(1, 2)
        return self._read(keys), self._read(values)

    def _read(self, tensor: Tensor) -> Tensor:
        visible = tensor[:, :, : self._width]
        return visible[: len(self._slots)] if self._is_leading else visible[self._slots]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Positions are always given explicitly, so nothing may be derived from a length."""
        return 0
