from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedModel

from agentgrpo.engines import kernel
from agentgrpo.engines.kernel import BLOCK
from agentgrpo.engines.slots import SlotCache, blocks_for


def filled(model: PreTrainedModel) -> tuple[SlotCache, torch.Tensor]:
    """Return a cache whose slot 2 holds four tokens, the last two in its second block, and their states [K, N, D]."""
    cache = SlotCache(model, slots=3, max_length=200)
    slots, positions = np.array([2, 2, 2, 2]), np.array([BLOCK - 2, BLOCK - 1, BLOCK, BLOCK + 1])
    cache.reserve(slots, positions)
    states = torch.randn(cache.kv_heads, 4, cache.head_dim, generator=torch.Generator().manual_seed(0))
    for layer in range(cache.layer_count):
        keys, values = (((sign * (states + layer)).transpose(0, 1)).numpy() for sign in (1, -1))
        kernel.store(
            cache.table, slots, positions, keys, values, cache.keys[layer].numpy(), cache.values[layer].numpy()
        )
    return cache, states


def held(cache: SlotCache, slot: int) -> torch.Tensor:
    """Return the keys [n, K, D, BLOCK] of the first layer that a slot has."""
    return cache.keys[0][torch.from_numpy(cache.table[slot][cache.table[slot] >= 0])]


def test_a_token_lies_in_its_block(model: PreTrainedModel) -> None:
    cache, states = filled(model)
    first, second = cache.table[2, :2]
    for layer in range(cache.layer_count):
        assert torch.equal(cache.keys[layer][first, :, :, -2:], (states[:, :2] + layer).transpose(1, 2))
        assert torch.equal(cache.values[layer][second, :, :2], -states[:, 2:] - layer)
    assert (cache.table[:2] == -1).all()


def test_what_is_cached_stays_when_the_cache_grows(model: PreTrainedModel) -> None:
    cache, _ = filled(model)
    assert cache.blocks == 2
    before = held(cache, 2).clone()
    cache.reserve(np.zeros(3, dtype=np.int64), np.arange(3) * BLOCK)
    assert cache.blocks == 5
    assert torch.equal(held(cache, 2), before)
    assert not held(cache, 0).any()


def test_a_slot_can_be_copied_to_others(model: PreTrainedModel) -> None:
    cache, _ = filled(model)
    cache.copy([(2, 0, BLOCK), (2, 1, BLOCK + 1)])
    assert torch.equal(held(cache, 0), held(cache, 2)[:1])  # the second block was not asked for
    assert torch.equal(held(cache, 1), held(cache, 2))
    assert len(set(cache.table[cache.table >= 0].tolist())) == 5  # nobody shares a block


def test_copies_are_made_at_once(model: PreTrainedModel) -> None:
    cache, _ = filled(model)
    cache.copy([(2, 0, 2 * BLOCK)])
    cache.keys[0][torch.from_numpy(cache.table[0, :2])] = 7.0
    first, second = held(cache, 0).clone(), held(cache, 2).clone()
    cache.copy([(2, 0, 2 * BLOCK), (0, 1, 2 * BLOCK)])
    assert torch.equal(held(cache, 0), second)
    assert torch.equal(held(cache, 1), first)


def test_memory_is_counted(model: PreTrainedModel) -> None:
    cache, _ = filled(model)
    size = sum(t.numel() * t.itemsize for t in (*cache.keys, *cache.values))
    assert size == cache.bytes_per_token * cache.blocks * BLOCK


def test_cleared_blocks_hold_zeros_and_are_free(model: PreTrainedModel) -> None:
    cache, _ = filled(model)
    cache.clear(2)
    assert not any(tensor.any() for tensor in (*cache.keys, *cache.values))
    assert (cache.table == -1).all()
    cache.reserve(np.array([0, 1]), np.array([0, 0]))
    assert cache.blocks == 2  # taken again


@given(steps=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 299), st.booleans()), max_size=40))
def test_no_block_is_lost_or_had_twice(model: PreTrainedModel, steps: list[tuple[int, int, bool]]) -> None:
    cache = SlotCache(model, slots=4, max_length=300)
    lengths = [0] * 4
    for slot, length, is_trim in steps:
        if is_trim:
            cache.trim(slot, length)
            lengths[slot] = min(lengths[slot], blocks_for(length))
        else:
            cache.reserve(np.full(length + 1, slot), np.arange(length + 1))
            lengths[slot] = max(lengths[slot], blocks_for(length + 1))
        taken = cache.table[cache.table >= 0].tolist()
        assert len(set(taken)) == len(taken) == sum(lengths)
        assert (np.sort([*taken, *cache._free]) == np.arange(cache.blocks)).all()
        assert cache.blocks <= cache.table.size
