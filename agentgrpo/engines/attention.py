"""One forward pass over tokens of many sequences at once, and the attention between them and the slot cache.

Prompts of any length and single tokens of running sequences share the pass: as one flat row of tokens they go through
the model's linear layers together, and only attention knows whose they are.

Batch invariance, by construction: what a token gets depends on its own sequence alone, bit for bit.
- Linear layers: a row of a matrix product does not depend on the others, once there are 8 or more (they are padded).
- Attention multiplies fixed shapes: one query, or a block of 32 aligned to its position, with 64 keys and 64 values
  after the other: every sum has one length and one order, and keys that may not be seen add exact zeros.
So a prompt may be fed whole, in pieces, or copied from another sequence that begins alike. `selfcheck` verifies it on
the machine at hand; `docs/determinism.md` says what voids it.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from agentgrpo import causal_lm
from agentgrpo.engines.slots import BLOCK, SlotCache, blocks_for

_NAME = "agentgrpo_slots"
ROWS = 8  # linear layers are fed a multiple of this many tokens
_QUERIES = 32  # queries of a prompt attend together in blocks of this many
_SCORES = 1 << 20  # per head, at once: 64 MiB for 16 heads

Ints = NDArray[np.int64]
Place = tuple[slice | Tensor, int | Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Queries:
    """Blocks of queries of equal shape: which of the pass's tokens they are, and what each may see.

    `slots` [R] is None when the blocks are those of the leading slots in order: their keys need no gather.
    """

    tokens: slice  # which tokens of the pass
    place: Place  # the block of each, and where in the block
    count: int
    size: int
    slots: Tensor | None
    bias: Tensor  # [blocks of keys, R, 1, 1, size, BLOCK]: 0 where a key may be seen, else minus infinity
    reach: tuple[int, ...]  # for each block of keys, how many of the blocks of queries see any of it


class Feed:
    """The layout of one pass: which slot and position each token has. Made once, read by every layer."""

    def __init__(self, cache: SlotCache, slots: Ints, positions: Ints, single: int) -> None:
        """Lay out N tokens; the first `single` are one query each (decoding), the rest are pieces of prompts."""
        self.cache, self.count = cache, len(slots)
        self.positions = torch.from_numpy(positions).to(cache.device)
        cache.reserve(int(positions.max()) + 1)
        self.rows = cache.rows(slots, positions)
        self.parts = []
        if single:
            self.parts.append(_single_queries(cache, slots[:single], positions[:single]))
        for places in _pieces(slots, positions, single):
            self.parts.append(_query_blocks(cache, slots[places], positions[places], places.start))


def _single_queries(cache: SlotCache, slots: Ints, positions: Ints) -> _Queries:
    """One query per sequence. Idle slots among busy ones are computed too: cheaper than gathering keys."""
    leading, n = int(slots.max()) + 1, len(slots)
    is_leading = 2 * n >= leading
    rows, count = (slots, leading) if is_leading else (np.arange(n), n)
    last = np.zeros(count, dtype=np.int64)
    last[rows] = positions
    blocks = blocks_for(int(positions.max()) + 1)
    return _Queries(
        tokens=slice(0, n),
        place=(slice(None) if count == n else torch.from_numpy(rows).to(cache.device), 0),
        count=count,
        size=1,
        slots=None if is_leading else torch.from_numpy(slots).to(cache.device),
        bias=_bias(last[:, None], blocks, cache),
        reach=(count,) * blocks,
    )


def _pieces(slots: Ints, positions: Ints, first: int) -> list[slice]:
    """Cut the prompts from place `first` on between blocks of queries, so that no piece has too many scores."""
    if first == len(slots):
        return []
    blocks, owners = positions[first:] // _QUERIES, slots[first:]
    begins = np.flatnonzero((np.diff(blocks) != 0) | (np.diff(owners) != 0)) + 1
    most = max(1, _SCORES // (_QUERIES * (int(positions[first:].max()) + 1)))
    edges = [first, *(begins[most - 1 :: most] + first).tolist(), len(slots)]
    return [slice(a, b) for a, b in itertools.pairwise(edges)]


def _query_blocks(cache: SlotCache, slots: Ints, positions: Ints, first: int) -> _Queries:
    """Blocks of queries aligned to their positions, longest first, so that far keys are read by few."""
    unique, inverse = np.unique(positions // _QUERIES * cache.slots + slots, return_inverse=True)
    unique, inverse = unique[::-1], len(unique) - 1 - inverse
    start = unique // cache.slots * _QUERIES
    sees = -(-(start + _QUERIES) // BLOCK)
    return _Queries(
        tokens=slice(first, first + len(slots)),
        place=(torch.from_numpy(inverse).to(cache.device), torch.from_numpy(positions % _QUERIES).to(cache.device)),
        count=len(unique),
        size=_QUERIES,
        slots=torch.from_numpy(unique % cache.slots).to(cache.device),
        bias=_bias(start[:, None] + np.arange(_QUERIES), int(sees[0]), cache),
        reach=tuple(int((sees > block).sum()) for block in range(sees[0])),
    )


def _bias(positions: Ints, blocks: int, cache: SlotCache) -> Tensor:
    keys = np.arange(blocks * BLOCK).reshape(blocks, 1, 1, BLOCK)
    bias = np.where(keys > positions[:, :, None], np.float32("-inf"), np.float32(0))
    return torch.from_numpy(bias).to(cache.device, cache.dtype)[:, :, None, None]


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
    feed.cache.write(layer, feed.rows, key[0, :, :count], value[0, :, :count])
    queries = query[0].transpose(0, 1) * scaling  # [N, H, D], padding included
    out = torch.zeros_like(queries)
    attend = _attend_in_blocks if query.device.type == "cpu" else _attend_at_once
    for part in feed.parts:
        blocks = queries.new_zeros(part.count, part.size, *queries.shape[1:])
        blocks[part.place] = queries[part.tokens]
        out[part.tokens] = attend(feed.cache, layer, blocks, part)[part.place]
    return out[None], None


def _attend_in_blocks(cache: SlotCache, layer: int, queries: Tensor, part: _Queries) -> Tensor:
    """Attention of scaled queries [R, T, H, D] in products of fixed shape; see the module's first lines."""
    queries = queries * math.log2(math.e)
    grouped = queries.unflatten(2, (cache.kv_heads, -1)).permute(0, 2, 3, 1, 4)  # [R, K, g, T, D]
    shape, flat = grouped.shape, grouped.flatten(2, 3).flatten(0, 1)  # [R K, g T, D]
    keys, values = (
        [_matrices(t[layer][i], part, n) for i, n in enumerate(part.reach)] for t in (cache.keys, cache.values)
    )
    scores = flat.new_empty(len(keys), *flat.shape[:2], BLOCK)
    for block, seen in zip(scores, keys, strict=True):
        torch.bmm(flat[: len(seen)], seen.transpose(1, 2), out=block[: len(seen)])
        if len(seen) < len(flat):
            block[len(seen) :] = 0  # hidden by the bias
    scores.view(len(keys), *shape[:-1], BLOCK).add_(part.bias)
    weights = scores.sub_(scores.amax((0, 3), keepdim=True)).exp2_()  # three times as fast as exp_ here
    out = torch.zeros_like(flat)
    for block, seen in zip(weights, values, strict=True):
        out[: len(seen)].baddbmm_(block[: len(seen)], seen)
    out /= weights.sum(-1).sum(0)[..., None]
    return out.view(shape).permute(0, 3, 1, 2, 4).reshape(queries.shape)


def _matrices(block: Tensor, part: _Queries, reach: int) -> Tensor:
    """Return a block of keys or values [slots, K, BLOCK, D] as matrices [reach K, BLOCK, D], one per row and head."""
    picked = block[:reach] if part.slots is None else block[part.slots[:reach]]
    return picked.flatten(0, 1)


def _attend_at_once(cache: SlotCache, layer: int, queries: Tensor, part: _Queries) -> Tensor:
    """The same with the device's fused kernel: fewer launches, no promise of equal bits."""
    slots = torch.arange(part.count, device=queries.device) if part.slots is None else part.slots
    blocks = len(part.reach)
    keys, values = (t[layer][:blocks, slots].permute(1, 2, 0, 3, 4).flatten(2, 3) for t in (cache.keys, cache.values))
    bias = part.bias[:, :, 0].permute(1, 2, 3, 0, 4).flatten(3)  # [R, 1, size, W]
    out = F.scaled_dot_product_attention(
        queries.transpose(1, 2), keys, values, attn_mask=bias, scale=1.0, enable_gqa=True
    )
    return out.transpose(1, 2)


def use_slots(model: PreTrainedModel) -> None:
    """Let a model of our own (see `causal_lm.share_weights`) attend to a slot cache, as `run_pass` needs it."""
    model.set_attn_implementation(_NAME)
    causal_lm.fuse_norms(model)


def run_pass(model: PreTrainedModel, tokens: Ints, feed: Feed) -> Tensor:
    """Feed N tokens, whoever's they are; return their hidden states [N, D], followed by rows of padding."""
    missing = -len(tokens) % ROWS
    ids = torch.from_numpy(np.pad(tokens, (0, missing))).to(model.device)
    positions = F.pad(feed.positions, (0, missing))
    return causal_lm.hidden_states(model, ids[None], position_ids=positions[None], feed=feed, use_cache=False)[0]


ALL_ATTENTION_FUNCTIONS.register(_NAME, slot_attention)
