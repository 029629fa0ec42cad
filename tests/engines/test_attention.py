from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from agentgrpo import causal_lm
from agentgrpo.engines import attention, passes
from agentgrpo.engines.attention import Feed
from agentgrpo.engines.slots import SlotCache


def ready(model: PreTrainedModel) -> PreTrainedModel:
    shared = causal_lm.share_weights(model)
    passes.use_slots(shared)
    return shared


def a_pass(model: PreTrainedModel, cache: SlotCache) -> torch.Tensor:
    """Feed two prompts, one of them in two pieces, the second beside a single query; return what that pass gives."""
    tokens = np.arange(160)
    passes.run_pass(model, tokens[:130], Feed(cache, np.repeat([1, 3], [90, 40]), tokens[:130] % 90))
    slots, positions = np.array([1, *[3] * 30]), np.array([90, *range(40, 70)])
    return passes.run_pass(model, tokens[130:161], Feed(cache, slots[:30], positions[:30]))[:30]


@torch.inference_mode()
def test_a_pass_gives_what_the_model_gives(model: PreTrainedModel) -> None:
    got = a_pass(ready(model), SlotCache(model, slots=4, max_length=128))
    first, second = [*range(90), 130], [*range(90, 130), *range(131, 160)]
    for ids, rows in ((first, got[:1]), (second, got[1:])):
        expected = model.base_model(torch.tensor([ids])).last_hidden_state[0, -len(rows) :]
        torch.testing.assert_close(rows, expected, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_the_fused_kernel_of_other_devices_gives_the_same(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = a_pass(ready(model), SlotCache(model, slots=4, max_length=128))
    monkeypatch.setattr(attention, "attend", attention.attend_fused)
    monkeypatch.setattr(attention, "_SCORES", 1 << 13)
    got = a_pass(ready(model), SlotCache(model, slots=4, max_length=128))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_a_fused_kernel_is_asked_for_one_query_head_per_key_head(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, plain = [], F.scaled_dot_product_attention

    def spy(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **more: Any) -> torch.Tensor:
        asked.append((query.shape[1], key.shape[1], more.get("enable_gqa", False)))
        return plain(query, key, value, **more)

    monkeypatch.setattr(attention, "attend", attention.attend_fused)
    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    cache = SlotCache(model, slots=4, max_length=128)
    a_pass(ready(model), cache)
    assert cache.groups > 1 and set(asked) == {(cache.kv_heads, cache.kv_heads, False)}


@torch.inference_mode()
def test_a_fused_kernel_takes_long_prompts_piece_by_piece(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "_SCORES", 1 << 13)
    cache = SlotCache(model, slots=4, max_length=300)
    feed = Feed(cache, np.repeat([2, 0], [200, 60]), np.concatenate([np.arange(200), np.arange(60)]))
    assert [len(part.tokens) for part in feed.parts] == [1] * 9


@torch.inference_mode()
def test_threads_share_a_pass_and_give_the_same_bits(model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = SlotCache(model, slots=4, max_length=128)
    feed = Feed(cache, np.repeat([1, 3, 0], [90, 40, 1]), np.concatenate([np.arange(90), np.arange(40), [0]]))
    states = torch.randn(3, 131, cache.kv_heads * cache.groups, 16, generator=torch.Generator().manual_seed(0))
    arguments = (feed, 0, states[0], states[1, :, : cache.kv_heads], states[2, :, : cache.kv_heads], 0.3)
    alone = attention.attend(*arguments)
    monkeypatch.setattr(attention, "_THREADED", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    shares = feed.shares(3)
    assert len(shares) == 3 and (np.concatenate(shares) == feed.runs).all()
    assert torch.equal(attention.attend(*arguments), alone)
