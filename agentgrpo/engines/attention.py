"""One forward pass over tokens of many sequences at once, and the attention between them and the slot cache.

Prompts of any length and single tokens of running sequences share the pass: as one flat row of tokens they go through
the model's linear layers together, and only attention knows whose they are.

Batch invariance, by construction: what a token gets depends on its own sequence alone, bit for bit.
- Linear layers: a row of a matrix product does not depend on the other rows, once there are 8 or more (rows are padded).
- Attention multiplies fixed shapes: one query, or a block of 32 aligned to its position, against blocks of 64 keys,
  block after block. Blocks beyond a query's position add exact zeros; neighbours only make the batch longer.
So a prompt may be fed whole, in pieces, or copied from another sequence that begins alike. `selfcheck` verifies it on
the machine at hand; `docs/determinism.md` says what voids it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from agentgrpo.engines.slots import BLOCK, SlotCache, blocks_for

NAME = "agentgrpo_slots"
ROWS = 8  # linear layers are fed a multiple of this many tokens
_QUERIES = 32  # queries of a prompt attend together in blocks of this many

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Queries:
    """Blocks of queries of equal shape: which of the pass's tokens stand where, and what each may see.

    `slots` [R] is None when the blocks are those of the leading slots in order: their keys need no gather.
    """

    tokens: Tensor  # [N] places of the tokens in the pass
    rows: Tensor  # [N] the block of each
    columns: Tensor | None  # [N] its place in the block; None when blocks hold one query
    count: int
    size: int
    slots: Tensor | None
    hidden: Tensor  # [R, size, W] True where a key may not be seen
    reach: tuple[int, ...]  # for each block of keys, how many of the (sorted) rows see any of it


class Feed:
    """The layout of one pass: which slot and position each token has. Made once, read by every layer."""

    def __init__(self, cache: SlotCache, slots: Ints, positions: Ints, single: int) -> None:
        """Lay out N tokens; the first `single` are one query each (decoding), the rest are pieces of prompts."""
        self.cache, self.count, self.single = cache, len(slots), single
        self.slots = torch.from_numpy(slots).to(cache.device)
        self.positions = torch.from_numpy(positions).to(cache.device)
        self.length = int(positions.max()) + 1
        cache.reserve(self.length)
        self.parts = []
        if single:
            self.parts.append(_single_queries(cache, slots[:single], positions[:single]))
        if single < self.count:
            self.parts.append(_query_blocks(cache, slots[single:], positions[single:], single))


def _single_queries(cache: SlotCache, slots: Ints, positions: Ints) -> _Queries:
    """One query per sequence. Idle slots among busy ones are computed too: cheaper than gathering the busy ones' keys."""
    leading = int(slots.max()) + 1
    is_leading = 2 * len(slots) >= leading
    rows, count = (slots, leading) if is_leading else (np.arange(len(slots)), len(slots))
    last = np.zeros(count, dtype=np.int64)
    last[rows] = positions
    blocks = blocks_for(int(positions.max()) + 1)
    return _Queries(
        tokens=torch.arange(len(slots), device=cache.device),
        rows=torch.from_numpy(rows).to(cache.device),
        columns=None,
        count=count,
        size=1,
        slots=None if is_leading else torch.from_numpy(slots).to(cache.device),
        hidden=_hidden(last[:, None], blocks).to(cache.device),
        reach=(count,) * blocks,
    )


def _query_blocks(cache: SlotCache, slots: Ints, positions: Ints, first: int) -> _Queries:
    """Blocks of queries aligned to their positions, longest first, so that far keys are read by few."""
    keyed = positions // _QUERIES * cache.slots + slots
    unique, inverse = np.unique(keyed, return_inverse=True)
    unique, inverse = unique[::-1], len(unique) - 1 - inverse
    start = unique // cache.slots * _QUERIES
    sees = -(-(start + _QUERIES) // BLOCK)
    blocks = blocks_for(int(positions.max()) + 1)
    return _Queries(
        tokens=torch.arange(first, first + len(slots), device=cache.device),
        rows=torch.from_numpy(inverse.copy()).to(cache.device),
        columns=torch.from_numpy(positions % _QUERIES).to(cache.device),
        count=len(unique),
        size=_QUERIES,
        slots=torch.from_numpy(unique % cache.slots).to(cache.device),
        hidden=_hidden(start[:, None] + np.arange(_QUERIES), blocks).to(cache.device),
        reach=tuple(int((sees > block).sum()) for block in range(blocks)),
    )


def _hidden(positions: Ints, blocks: int) -> Tensor:
    keys = torch.arange(blocks * BLOCK)
    return keys[None, None] > torch.from_numpy(positions)[:, :, None]


def slot_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    *,
    feed: Feed,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Store the keys and values of a pass and attend to what each token's sequence has cached.

    Shapes: query [1, H, N, D]; key and value [1, K, N, D] with H a multiple of K; returns [1, N, H, D].
    """
    layer, count = int(module.layer_idx), feed.count  # type: ignore[arg-type]  # every decoder's attention has one
    feed.cache.write(layer, feed.slots, feed.positions, key[0, :, :count], value[0, :, :count])
    out = torch.zeros_like(query[0].transpose(0, 1))  # [N, H, D], padding included
    attend = _attend_in_blocks if query.device.type == "cpu" else _attend_at_once
    for part in feed.parts:
        picked = query[0].transpose(0, 1)[part.tokens]
        blocks = query.new_zeros(part.count, part.size, *picked.shape[1:])
        columns = 0 if part.columns is None else part.columns
        blocks[part.rows, columns] = picked
        out[part.tokens] = attend(feed.cache, layer, blocks * scaling, part)[part.rows, columns]
    return out[None], None


def _attend_in_blocks(cache: SlotCache, layer: int, queries: Tensor, part: _Queries) -> Tensor:
    """Attention of scaled queries [R, T, H, D], one block of keys after the other; see the module's first lines."""
    rows, size, heads, dim = queries.shape
    shape = (rows, size, cache.kv_heads, heads // cache.kv_heads, dim)
    batch = rows * cache.kv_heads
    grouped = queries.view(shape).permute(0, 2, 3, 1, 4).reshape(batch, -1, dim)  # [R K, g T, D]
    scores = torch.full((batch, grouped.shape[1], len(part.reach) * BLOCK), float("-inf"), dtype=queries.dtype)
    for index, reach in enumerate(part.reach):
        n = reach * cache.kv_heads
        keys = _block(cache.keys[layer][index], part, reach)
        scores[:n, :, index * BLOCK : (index + 1) * BLOCK] = grouped[:n] @ keys.transpose(1, 2)
    scores.view(rows, cache.kv_heads, -1, size, scores.shape[-1]).masked_fill_(part.hidden[:, None, None], float("-inf"))
    weights = torch.softmax(scores, dim=-1)
    out = torch.zeros_like(grouped)
    for index, reach in enumerate(part.reach):
        n = reach * cache.kv_heads
        values = _block(cache.values[layer][index], part, reach)
        out[:n].baddbmm_(weights[:n, :, index * BLOCK : (index + 1) * BLOCK], values)
    return out.view(rows, cache.kv_heads, -1, size, dim).permute(0, 3, 1, 2, 4).reshape(queries.shape)


def _block(block: Tensor, part: _Queries, reach: int) -> Tensor:
    """Return a block of keys or values [slots, K, BLOCK, D] as matrices [reach K, BLOCK, D], one per row."""
    picked = block[:reach] if part.slots is None else block[part.slots[:reach]]
    return picked.view(-1, *block.shape[2:])


def _attend_at_once(cache: SlotCache, layer: int, queries: Tensor, part: _Queries) -> Tensor:
    """The same with the device's fused kernel: fewer launches, no promise of equal bits."""
    slots = torch.arange(part.count, device=queries.device) if part.slots is None else part.slots
    keys, values = (
        t[layer][: len(part.reach), slots].permute(1, 2, 0, 3, 4).flatten(2, 3) for t in (cache.keys, cache.values)
    )
    out = F.scaled_dot_product_attention(
        queries.transpose(1, 2), keys, values, attn_mask=~part.hidden[:, None], scale=1.0, enable_gqa=True
    )
    return out.transpose(1, 2)


ALL_ATTENTION_FUNCTIONS.register(NAME, slot_attention)
