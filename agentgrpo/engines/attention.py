"""One forward pass over tokens of many sequences at once, and the attention between them and the slot cache.

Prompts of any length and single tokens of running sequences share the pass: as one flat row of tokens they go through
the model's linear layers together, and only attention knows whose they are.

Batch invariance, by construction: what a token gets depends on its own sequence alone, bit for bit.
- A row of a matrix product does not depend on the other rows, once there are a few: 8 in the linear layers, 4 in
  attention. Fewer are padded.
- Attention multiplies queries with 64 keys and 64 values after the other: every sum has one length and one order, and
  keys that may not be seen add exact zeros.
So tokens may be fed one by one, in pieces, guessed ahead, or copied from another sequence that begins alike.
`selfcheck` verifies it on the machine at hand; `docs/determinism.md` says what voids it.
"""

from __future__ import annotations

import functools
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
_ROWS_ALIKE = 4  # small products: so many rows or more, and each is multiplied the same way
_SHORT = 8  # runs of so many tokens attend as they are, longer ones in blocks of _QUERIES
_QUERIES = 32
_SCORES = 1 << 20  # per head, at once: 64 MiB for 16 heads

Ints = NDArray[np.int64]
Place = tuple[slice | Tensor, int | Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Queries:
    """Blocks of queries of one size: which of the pass's tokens they are, and what each may see.

    `slots` [R] is None when the blocks are those of the leading slots in order: their keys need no gather.
    """

    tokens: slice | Tensor  # which tokens of the pass
    place: Place  # the block of each, and where in the block
    count: int
    used: int  # queries in the fullest block
    size: int  # the same, or more where small products need more rows
    slots: Tensor | None
    bias: Tensor  # [blocks of keys, R, 1, 1, used, BLOCK]: 0 where a key may be seen, else minus infinity
    reach: tuple[int, ...]  # for each block of keys, how many of the blocks of queries see any of it


@dataclass(frozen=True, slots=True)
class _Runs:
    """Consecutive tokens of a sequence each: where they begin in the pass, how many, whose, from which position on."""

    first: Ints
    counts: Ints
    slots: Ints
    positions: Ints

    def __getitem__(self, which: Any) -> _Runs:
        return _Runs(self.first[which], self.counts[which], self.slots[which], self.positions[which])

    def cut(self, size: int) -> _Runs:
        """Cut the runs into runs of at most `size`."""
        run, place = _unroll(-(-self.counts // size))
        skipped = place * size
        counts = np.minimum(self.counts[run] - skipped, size)
        return _Runs(self.first[run] + skipped, counts, self.slots[run], self.positions[run] + skipped)


class Feed:
    """The layout of one pass: which slot and position each token has. Made once, read by every layer."""

    def __init__(self, cache: SlotCache, slots: Ints, positions: Ints) -> None:
        """Lay out N tokens; those of one sequence follow each other."""
        self.cache, self.count = cache, len(slots)
        self.positions = torch.from_numpy(positions).to(cache.device)
        cache.reserve(int(positions.max()) + 1)
        self.rows = cache.rows(slots, positions)
        first = np.flatnonzero(np.diff(slots, prepend=-1))
        runs = _Runs(first, np.diff(first, append=len(slots)), slots[first], positions[first])
        self.parts: list[_Queries] = []
        for is_in, size in ((runs.counts == 1, 1), ((runs.counts > 1) & (runs.counts <= _SHORT), _SHORT)):
            if is_in.any():
                self.parts.append(_queries(cache, runs[is_in], min(size, int(runs.counts[is_in].max()))))
        if (runs.counts > _SHORT).any():
            long = runs[runs.counts > _SHORT].cut(_QUERIES)
            long = long[np.argsort(-long.positions, kind="stable")]  # longest first: far keys are read by few
            most = max(1, _SCORES // (_QUERIES * (int(positions.max()) + 1)))
            self.parts += [_queries(cache, long[i : i + most], _QUERIES) for i in range(0, len(long.first), most)]


def _unroll(counts: Ints) -> tuple[Ints, Ints]:
    """Return for each of sum(counts) items whose it is, and its place among the owner's."""
    owner = np.repeat(np.arange(len(counts)), counts)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)


def _queries(cache: SlotCache, runs: _Runs, used: int) -> _Queries:
    """Lay out a block of queries per run. Idle slots among busy ones are computed too: cheaper than gathering keys."""
    n, leading = len(runs.slots), int(runs.slots.max()) + 1
    is_leading = used <= _SHORT and 2 * n >= leading
    rows, count = (runs.slots, leading) if is_leading else (np.arange(n), n)
    start = np.zeros(count, dtype=np.int64)
    start[rows] = runs.positions
    ends = blocks_for(runs.positions + runs.counts)
    tokens, place = _places(runs, rows, count, used, cache.device)
    return _Queries(
        tokens=tokens,
        place=place,
        count=count,
        used=used,
        size=max(used, -(-_ROWS_ALIKE // cache.groups)),
        slots=None if is_leading else torch.from_numpy(runs.slots).to(cache.device),
        bias=_bias(start[:, None] + np.arange(used), int(ends.max()), cache),
        reach=tuple(count if is_leading else int((ends > i).nonzero()[0][-1]) + 1 for i in range(int(ends.max()))),
    )


def _places(runs: _Runs, rows: Ints, count: int, used: int, device: torch.device) -> tuple[slice | Tensor, Place]:
    """Return which tokens of the pass the runs hold, and the block and the place in it of each."""
    if used == 1:
        tokens, block, column = runs.first, rows, None
    else:
        run, column = _unroll(runs.counts)
        tokens, block = runs.first[run] + column, rows[run]
    is_slice = bool((np.diff(tokens) == 1).all())
    return (
        slice(int(tokens[0]), int(tokens[-1]) + 1) if is_slice else torch.from_numpy(tokens).to(device),
        (
            slice(None) if used == 1 and len(block) == count else torch.from_numpy(block).to(device),
            0 if column is None else torch.from_numpy(column).to(device),
        ),
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
    """Attention of scaled queries [R, T, H, D], a block of keys after the other; see the module's first lines."""
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
    seen_scores = scores.view(len(keys), *shape[:-1], BLOCK)[..., : part.used, :].add_(part.bias)
    seen_scores.sub_(seen_scores.amax((0, -1), keepdim=True)).exp2_()  # three times as fast as exp_ here
    out = torch.zeros_like(flat)
    for block, seen in zip(scores, values, strict=True):
        out[: len(seen)].baddbmm_(block[: len(seen)], seen)
    total = functools.reduce(torch.add, seen_scores.sum(-1))  # in order: torch's own sum goes by the shape
    attended: Tensor = out.view(shape)[..., : part.used, :] / total[..., None]
    return attended.permute(0, 3, 1, 2, 4).flatten(2, 3)


def _matrices(block: Tensor, part: _Queries, reach: int) -> Tensor:
    """Return a block of keys or values [slots, K, BLOCK, D] as matrices [reach K, BLOCK, D], one per row and head."""
    picked = block[:reach] if part.slots is None else block[part.slots[:reach]]
    return picked.flatten(0, 1)


def _attend_at_once(cache: SlotCache, layer: int, queries: Tensor, part: _Queries) -> Tensor:
    """The same with the device's fused kernel: fewer launches, no promise of equal bits."""
    slots = torch.arange(part.count, device=queries.device) if part.slots is None else part.slots
    blocks = len(part.reach)
    keys, values = (t[layer][:blocks, slots].permute(1, 2, 0, 3, 4).flatten(2, 3) for t in (cache.keys, cache.values))
    bias = part.bias[:, :, 0].permute(1, 2, 3, 0, 4).flatten(3)  # [R, 1, used, W]
    out = F.scaled_dot_product_attention(
        queries[:, : part.used].transpose(1, 2), keys, values, attn_mask=bias, scale=1.0, enable_gqa=True
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
