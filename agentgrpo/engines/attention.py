"""Attention between the tokens of a pass and the slot cache, each token to its own sequence.

On the CPU it is the compiled loop of `kernel.py`, for which nothing else in the pass matters. Other devices use their
fused kernel, and promise nothing. It knows whose a token is, and no model.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache as cached
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from agentgrpo.engines import kernel
from agentgrpo.engines.kernel import BLOCK
from agentgrpo.engines.slots import SlotCache, blocks_for

NAME = "agentgrpo_slots"
_QUERIES = 32  # tokens of a sequence that read a block of keys together
_SCORES = 1 << 20  # per head, at once, in a fused kernel: 64 MiB for 16 heads
_THREADED = 1 << 20  # products of a query and a key, over all heads, from which threads share them

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """R runs of queries padded to one size T, for a fused kernel."""

    tokens: Tensor  # [R, T]: which token of the pass; the last one's again where a run has no more
    targets: Tensor  # [N]: the tokens there are, each once
    sources: Tensor  # [N]: where each is, of R * T
    blocks: Tensor  # [R, most]
    bias: Tensor  # [R, 1, groups * T, most * BLOCK]: 0 where a key may be seen, else minus infinity


class Feed:
    """The layout of one pass: which slot and position each token has. Made once, read by every layer."""

    def __init__(self, cache: SlotCache, slots: Ints, positions: Ints) -> None:
        """Lay out N tokens; those of one sequence follow each other."""
        cache.reserve(slots, positions)
        self.cache, self.slots, self.positions, self.count = cache, slots, positions, len(slots)
        first = np.flatnonzero(np.concatenate([[True], slots[1:] != slots[:-1]]))
        runs = np.stack([first, np.diff(first, append=len(slots)), slots[first], positions[first]], axis=1)
        self.runs = _cut(runs, _QUERIES)

    def shares(self, threads: int) -> list[Ints]:
        """Return the runs in as many shares of like work, one where there is little."""
        work = np.cumsum(self.runs[:, 1] * (self.runs[:, 3] + self.runs[:, 1]))
        if threads == 1 or work[-1] * self.cache.kv_heads * self.cache.groups < _THREADED:
            return [self.runs]
        shares = np.split(self.runs, np.searchsorted(work, work[-1] * np.arange(1, threads) / threads))
        return [runs for runs in shares if len(runs)]

    @cached_property
    def parts(self) -> list[_Part]:
        """The runs as a fused kernel takes them: those of a token each together, longer ones padded."""
        is_single = self.runs[:, 1] == 1
        most = max(1, _SCORES // (_QUERIES * (int(self.positions.max()) + 1)))
        long = self.runs[~is_single]
        groups = [self.runs[is_single], *(long[i : i + most] for i in range(0, len(long), most))]
        return [_part(self.cache, runs) for runs in groups if len(runs)]

    @cached_property
    def places(self) -> tuple[Tensor, Tensor]:
        """The block of each token, and where in it."""
        blocks = self.cache.table[self.slots, self.positions // BLOCK]
        return _on(self.cache, blocks), _on(self.cache, self.positions % BLOCK)


def _cut(runs: Ints, size: int) -> Ints:
    """Cut runs [R, 4] (first token, count, slot, first position) into runs of at most `size` tokens."""
    if (runs[:, 1] <= size).all():
        return runs
    pieces = -(-runs[:, 1] // size)
    cut = np.repeat(runs, pieces, axis=0)
    skipped = (np.arange(len(cut)) - np.repeat(np.cumsum(pieces) - pieces, pieces)) * size
    cut[:, 0] += skipped
    cut[:, 1] = np.minimum(cut[:, 1] - skipped, size)
    cut[:, 3] += skipped
    return cut


def _part(cache: SlotCache, runs: Ints) -> _Part:
    first, counts, slots, positions = runs.T[..., None]
    ahead = np.arange(counts.max())
    columns = np.arange(blocks_for(int((positions + counts).max())))
    is_hidden = np.arange(len(columns) * BLOCK) > (positions + ahead)[..., None]
    bias = np.where(is_hidden, np.float32("-inf"), np.float32(0))
    tokens, is_token = first + np.minimum(ahead, counts - 1), ahead < counts
    return _Part(
        tokens=_on(cache, tokens),
        targets=_on(cache, tokens[is_token]),
        sources=_on(cache, np.flatnonzero(is_token)),
        blocks=_on(cache, np.maximum(cache.table[slots, columns], 0)),
        bias=_on(cache, bias).to(cache.dtype)[:, None].expand(-1, cache.groups, -1, -1).flatten(1, 2)[:, None],
    )


def _on(cache: SlotCache, array: NDArray[Any]) -> Tensor:
    return torch.from_numpy(array).to(cache.device)


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
    layer = int(module.layer_idx)  # type: ignore[arg-type]  # every decoder's attention has one
    use = attend if query.device.type == "cpu" else attend_fused
    q, k, v = (states[0].transpose(0, 1) for states in (query, key, value))
    return use(feed, layer, q, k, v, scaling)[None], None


def attend(feed: Feed, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    """The same on the CPU for queries [N, H, D], keys and values [N, K, D]; rows of padding get zeros.

    Raises:
        ValueError: the model has other heads than its configuration says.
    """
    cache = feed.cache
    shapes = [tuple(states.shape[1:]) for states in (query, key, value)]
    expected = [(cache.kv_heads * count, cache.head_dim) for count in (cache.groups, 1, 1)]
    if shapes != expected:  # the loops check no bounds
        raise ValueError(f"queries, keys and values of {shapes} heads and numbers, expected {expected}")
    keys, values = cache.keys[layer].numpy(), cache.values[layer].numpy()
    q, k, v = (states.float().contiguous().numpy() for states in (query, key, value))
    out = np.zeros_like(q)  # of padding it stays zero
    kernel.store(cache.table, feed.slots, feed.positions, k, v, keys, values)
    mine, *others = feed.shares(torch.get_num_threads())
    jobs = [_pool().submit(kernel.attend, cache.table, runs, q, scaling, keys, values, out) for runs in others]
    kernel.attend(cache.table, mine, q, scaling, keys, values, out)
    for job in jobs:
        job.result()
    return torch.from_numpy(out).to(query.dtype)


@cached
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="agentgrpo-attention")


def attend_fused(feed: Feed, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    """The same with a device's own kernel."""
    cache, (blocks, places) = feed.cache, feed.places
    keys, values = cache.keys[layer], cache.values[layer]
    keys[blocks, :, :, places], values[blocks, :, places] = key[: feed.count], value[: feed.count]
    out = torch.zeros_like(query)
    for part in feed.parts:
        k = keys[part.blocks].permute(0, 2, 1, 4, 3).flatten(2, 3)  # [R, K, most * BLOCK, D]
        v = values[part.blocks].transpose(1, 2).flatten(2, 3)
        q = query[part.tokens].transpose(1, 2)
        # Heads that share keys as one: of groups and a mask together no fused kernel of CUDA knows, and what torch
        # takes in its place copies keys and values for every head, in float32.
        together = q.reshape(len(q), cache.kv_heads, -1, cache.head_dim)
        attended = F.scaled_dot_product_attention(together, k, v, attn_mask=part.bias, scale=scaling).reshape(q.shape)
        out[part.targets] = attended.transpose(1, 2).flatten(0, 1)[part.sources]
    return out


ALL_ATTENTION_FUNCTIONS.register(NAME, slot_attention)
