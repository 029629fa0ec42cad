from __future__ import annotations

import torch
from transformers import PreTrainedModel

from agentgrpo.engines.slots import SlotCache, SlotView


def filled(model: PreTrainedModel) -> tuple[SlotCache, torch.Tensor]:
    cache = SlotCache(model, slots=3, max_columns=100)
    cache.reserve(10)
    states = torch.randn(2, cache.kv_heads, 4, cache.head_dim, generator=torch.Generator().manual_seed(0))
    slots, positions = torch.tensor([2, 0]), torch.arange(4).repeat(2, 1)
    for layer in range(cache.layer_count):
        SlotView(cache, slots, positions, 4).update(states + layer, -states - layer, layer)
    return cache, states


def test_what_is_cached_stays_when_the_cache_grows(model: PreTrainedModel) -> None:
    cache, states = filled(model)
    assert cache.columns == 64
    cache.reserve(65)
    assert cache.columns == 100  # doubled, but never beyond what a sequence may have
    for layer in range(cache.layer_count):
        assert torch.equal(cache.keys[layer][2, :, :4], states[0] + layer)
        assert torch.equal(cache.values[layer][0, :, :4], -states[1] - layer)
        assert not cache.keys[layer][1].any()


def test_a_view_reads_the_slots_it_was_made_for(model: PreTrainedModel) -> None:
    cache, states = filled(model)
    for slots in ([0, 1, 2], [2, 0], [2], [0]):
        columns = torch.full((len(slots), 1), 4)
        view = SlotView(cache, torch.tensor(slots), columns, 16)
        new = torch.full((len(slots), cache.kv_heads, 1, cache.head_dim), 7.0)
        keys, values = view.update(new, new + 1, 0)
        assert keys.shape == (len(slots), cache.kv_heads, 16, cache.head_dim)
        assert torch.equal(keys[:, :, 4:5], new)
        assert torch.equal(values[:, :, 4:5], new + 1)
        for row, slot in enumerate(slots):
            if slot != 1:
                assert torch.equal(keys[row, :, :4], states[{2: 0, 0: 1}[slot]])


def test_a_prefix_can_be_copied_whole_or_in_part(model: PreTrainedModel) -> None:
    cache, states = filled(model)
    prefix = cache.read_prefix(2, (1, 2, 3))
    cache.keys[0][2].zero_()  # a copy, not a view
    cache.write_prefix(torch.tensor([0, 1]), prefix, 2)
    for slot in (0, 1):
        assert torch.equal(cache.keys[0][slot, :, :2], states[0][:, :2])
        assert torch.equal(cache.values[1][slot, :, :2], -states[0][:, :2] - 1)
    assert torch.equal(cache.keys[0][0, :, 2:4], states[1][:, 2:4])


def test_memory_is_counted(model: PreTrainedModel) -> None:
    cache, _ = filled(model)
    held = sum(t.numel() * t.itemsize for t in (*cache.keys, *cache.values))
    assert held == cache.bytes_per_column * cache.columns * cache.slots
