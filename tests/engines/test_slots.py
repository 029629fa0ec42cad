from __future__ import annotations

import numpy as np
import torch
from transformers import PreTrainedModel

from agentgrpo.engines.slots import BLOCK, SlotCache


def filled(model: PreTrainedModel) -> tuple[SlotCache, torch.Tensor]:
    """Return a cache whose slot 2 holds four tokens, the last two in its second block, and their states [K, N, D]."""
    cache = SlotCache(model, slots=3, max_length=200)
    cache.reserve(BLOCK + 2)
    states = torch.randn(cache.kv_heads, 4, cache.head_dim, generator=torch.Generator().manual_seed(0))
    rows = cache.rows(np.array([2, 2, 2, 2]), np.array([BLOCK - 2, BLOCK - 1, BLOCK, BLOCK + 1]))
    for layer in range(cache.layer_count):
        cache.write(layer, rows, states + layer, -states - layer)
    return cache, states


def test_a_token_lies_in_its_block(model: PreTrainedModel) -> None:
    cache, states = filled(model)
    for layer in range(cache.layer_count):
        assert torch.equal(cache.keys[layer][0, 2, :, -2:], states[:, :2] + layer)
        assert torch.equal(cache.values[layer][1, 2, :, :2], -states[:, 2:] - layer)
        assert not cache.keys[layer][:, :2].any()


def test_what_is_cached_stays_when_the_cache_grows(model: PreTrainedModel) -> None:
    cache, states = filled(model)
    assert cache.blocks == 2
    cache.reserve(2 * BLOCK + 1)
    assert cache.blocks == 4  # doubled, but never beyond what a sequence may have
    assert torch.equal(cache.keys[0][1, 2, :, :2], states[:, 2:])
    assert not cache.keys[0][2:].any()


def test_a_slot_can_be_copied_to_others(model: PreTrainedModel) -> None:
    cache, states = filled(model)
    cache.copy(torch.tensor([2, 2]), torch.tensor([0, 1]), BLOCK)
    for slot in (0, 1):
        assert torch.equal(cache.keys[0][0, slot, :, -2:], states[:, :2])
        assert not cache.keys[0][1, slot].any()  # the second block was not asked for


def test_memory_is_counted(model: PreTrainedModel) -> None:
    cache, _ = filled(model)
    held = sum(t.numel() * t.itemsize for t in (*cache.keys, *cache.values))
    assert held == cache.bytes_per_token * cache.blocks * BLOCK * cache.slots
