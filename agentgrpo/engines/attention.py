"""One forward pass over tokens of many sequences at once, and the attention between them and the slot cache.

Prompts of any length and single tokens of running sequences share the pass: as one flat row of tokens they go through
the model's linear layers together, and only attention knows whose they are.

Batch invariance, by construction: what a token gets depends on its own sequence alone, bit for bit.
- A row of a matrix product does not depend on the other rows, once there are a few: 8 in the linear layers, 4 in
  attention. Fewer are padded.
- Attention multiplies each query with one block of 32 keys and 32 values at a time and then adds up what a sequence's
  blocks gave, in order: every sum has one length and one order, and keys that may not be seen add exact zeros.
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
    """R runs of queries padded to one size, and the P pairs of a run and a block of keys that it sees."""

    tokens: slice | Tensor  # which tokens of the pass
    place: Place  # the run of each, and where in the run
    count: int  # R
    used: int  # queries in the longest run
    size: int  # the same, or more where small products need more rows
    owner: Tensor  # [P]: the run of each pair
    blocks: Tensor | None  # [P]: the block of each pair; None: the cache's first P in order, which need no gather
    table: Tensor  # [most, R]: each run's pairs in the order of its blocks; P where it has no more
    is_ragged: bool  # some run has fewer pairs than another
    bias: Tensor  # [P, 1, used, 1, BLOCK]: 0 where a key may be seen, else minus infinity


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
        self.parts: list[_Queries]
        self.positions = torch.from_numpy(positions).to(cache.device)
        cache.reserve(slots, positions)
        self.rows = cache.rows(slots, positions)
        if (slots[1:] != slots[:-1]).all():  # a token each: most passes are like this
            runs = _Runs(np.arange(len(slots)), np.ones(len(slots), dtype=np.int64), slots, positions)
            self.parts = [_queries(cache, runs, 1)]
            return
        first = np.flatnonzero(np.concatenate([[True], slots[1:] != slots[:-1]]))
        ends = np.concatenate([first[1:], [len(slots)]])
        runs = _Runs(first, ends - first, slots[first], positions[first])
        self.parts = []
        for is_in, size in ((runs.counts == 1, 1), ((runs.counts > 1) & (runs.counts <= _SHORT), _SHORT)):
            if is_in.any():
                self.parts.append(_queries(cache, runs[is_in], min(size, int(runs.counts[is_in].max()))))
        if (runs.counts > _SHORT).any():
            long = runs[runs.counts > _SHORT].cut(_QUERIES)
            most = max(1, _SCORES // (_QUERIES * (int(positions.max()) + 1)))
            self.parts += [_queries(cache, long[i : i + most], _QUERIES) for i in range(0, len(long.first), most)]


def _unroll(counts: Ints) -> tuple[Ints, Ints]:
    """Return for each of sum(counts) items whose it is, and its place among the owner's."""
    owner = np.repeat(np.arange(len(counts)), counts)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)


def _queries(cache: SlotCache, runs: _Runs, used: int) -> _Queries:
    """Lay out runs of at most `used` queries. Idle blocks among busy ones are computed too: cheaper than a gather."""
    counts = blocks_for(runs.positions + runs.counts)
    run, column = _unroll(counts)
    blocks = cache.table[runs.slots[run], column]
    extent = int(blocks.max()) + 1
    is_leading = used <= _SHORT and 2 * len(blocks) >= extent
    index, pairs = (blocks, extent) if is_leading else (np.arange(len(blocks)), len(blocks))
    owner, last = np.zeros(pairs, dtype=np.int64), np.full(pairs, -_SHORT)  # an idle block is seen by nobody
    owner[index], last[index] = run, runs.positions[run] - column * BLOCK
    table = np.full((int(counts.max()), len(counts)), pairs)
    table[column, run] = index
    tokens, place = _places(runs, used, cache.device)
    return _Queries(
        tokens=tokens,
        place=place,
        count=len(counts),
        used=used,
        size=max(used, -(-_ROWS_ALIKE // cache.groups)),
        owner=torch.from_numpy(owner).to(cache.device),
        blocks=None if is_leading else torch.from_numpy(blocks).to(cache.device),
        table=torch.from_numpy(table).to(cache.device),
        is_ragged=bool((counts != len(table)).any()),
        bias=_bias(last, used, cache),
    )


def _places(runs: _Runs, used: int, device: torch.device) -> tuple[slice | Tensor, Place]:
    """Return which tokens of the pass the runs hold, and the run and the place in it of each."""
    place: Place = slice(None), 0
    tokens = runs.first
    if used > 1:
        run, column = _unroll(runs.counts)
        tokens = runs.first[run] + column
        place = torch.from_numpy(run).to(device), torch.from_numpy(column).to(device)
    is_slice = bool((tokens[1:] - tokens[:-1] == 1).all())
    return slice(int(tokens[0]), int(tokens[-1]) + 1) if is_slice else torch.from_numpy(tokens).to(device), place


def _bias(last: Ints, used: int, cache: SlotCache) -> Tensor:
    """Return 0 up to the last position [P] in its block that a run's first query sees, else minus infinity."""
    is_hidden = np.arange(BLOCK) > (last[:, None] + np.arange(used))[:, :, None]
    bias = np.where(is_hidden, np.float32("-inf"), np.float32(0))
    return torch.from_numpy(bias).to(cache.device, cache.dtype)[:, None, :, None]


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
    cache = feed.cache
    cache.write(layer, feed.rows, key[0, :, :count].transpose(0, 1), value[0, :, :count].transpose(0, 1))
    # [N, K, g, D], padding included
    queries = query[0].transpose(0, 1).reshape(query.shape[2], cache.kv_heads, cache.groups, cache.head_dim)
    out = torch.zeros_like(queries)
    attend = _attend_in_blocks if query.device.type == "cpu" else _attend_at_once
    for part in feed.parts:
        runs = queries.new_zeros(part.count, cache.kv_heads, part.size, cache.groups, cache.head_dim).transpose(1, 2)
        runs[part.place] = queries[part.tokens]
        out[part.tokens] = attend(cache, layer, runs, scaling, part)[part.place]
    return out.flatten(1, 2)[None], None


def _attend_in_blocks(cache: SlotCache, layer: int, queries: Tensor, scaling: float, part: _Queries) -> Tensor:
    """Attention of queries [R, T, K, g, D], pair by pair of a run and a block; see the module's first lines."""
    grouped = queries.transpose(1, 2)  # [R, K, T, g, D], as it lies in memory
    _, heads, size, groups, dim = grouped.shape
    matrices = len(part.owner) * heads  # P K of them
    keys, values = (_blocks(t[layer], part).view(matrices, BLOCK, dim) for t in (cache.keys, cache.values))
    asked = grouped.index_select(0, part.owner).view(matrices, size * groups, dim)
    scores = torch.bmm(asked, keys.transpose(1, 2))
    seen = scores.view(-1, heads, size, groups, BLOCK)[:, :, : part.used]
    torch.add(part.bias, seen, alpha=scaling * math.log2(math.e), out=seen)  # [P, K, used, g, BLOCK]
    highest = _by_run(seen.amax(-1), part, -math.inf).amax(0)
    seen.sub_(highest.index_select(0, part.owner)[..., None]).exp2_()  # three times as fast as exp_ here
    # In order, block after block: torch's own sum goes by the shape.
    total = functools.reduce(torch.add, _by_run(seen.sum(-1), part, 0.0))  # [R, K, used, g]
    out = torch.bmm(scores, values).view(-1, heads, size, groups, dim)
    attended: Tensor = functools.reduce(torch.add, _by_run(out, part, 0.0))[:, :, : part.used] / total[..., None]
    return attended.transpose(1, 2)


def _blocks(held: Tensor, part: _Queries) -> Tensor:
    """Return the keys or values [P, K, BLOCK, D] of a part's pairs."""
    return held[: len(part.owner)] if part.blocks is None else held.index_select(0, part.blocks)


def _by_run(found: Tensor, part: _Queries, missing: float) -> Tensor:
    """Sort what was found for each pair [P, ...] by run [most, R, ...]; `missing` where a run has no more pairs."""
    if part.is_ragged:
        found = torch.cat([found, found.new_full((1, *found.shape[1:]), missing)])
    most, runs = part.table.shape
    return found.index_select(0, part.table.view(-1)).view(most, runs, *found.shape[1:])


def _attend_at_once(cache: SlotCache, layer: int, queries: Tensor, scaling: float, part: _Queries) -> Tensor:
    """The same with the device's fused kernel: fewer launches, no promise of equal bits."""
    pairs = part.table.clamp(max=len(part.owner) - 1)
    blocks = pairs if part.blocks is None else part.blocks[pairs]  # [most, R]
    keys, values = (t[layer][blocks].permute(1, 2, 0, 3, 4).flatten(2, 3) for t in (cache.keys, cache.values))
    bias = _by_run(part.bias, part, -math.inf)[:, :, 0, :, 0].permute(1, 2, 0, 3).flatten(2)[:, None]  # [R, 1, used, W]
    heads = queries[:, : part.used].flatten(2, 3).transpose(1, 2)
    out = F.scaled_dot_product_attention(heads, keys, values, attn_mask=bias, scale=scaling, enable_gqa=True)
    return out.transpose(1, 2).reshape(*heads.shape[:1], part.used, *queries.shape[2:])


def use_slots(model: PreTrainedModel) -> None:
    """Let a model of our own (see `causal_lm.share_weights`) attend to a slot cache, as `run_pass` needs it."""
    model.set_attn_implementation(_NAME)
    causal_lm.fuse_norms(model)


def run_pass(model: PreTrainedModel, tokens: Ints, feed: Feed) -> Tensor:
    """Feed N tokens, whoever's they are; return their hidden states [N, D], followed by rows of padding."""
    missing = -len(tokens) % ROWS
    ids = torch.from_numpy(np.concatenate([tokens, np.zeros(missing, dtype=np.int64)])).to(model.device)
    positions = F.pad(feed.positions, (0, missing)) if missing else feed.positions
    return causal_lm.hidden_states(model, ids[None], position_ids=positions[None], feed=feed, use_cache=False)[0]


ALL_ATTENTION_FUNCTIONS.register(_NAME, slot_attention)
