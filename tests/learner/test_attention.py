from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto import CONFIG_MAPPING

from agentgrpo.learner import attention
from agentgrpo.learner.attention import causal_attention, use_causal_attention

SMALL: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "pad_token_id": 0,
}


def model_of(kind: str, **more: Any) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**SMALL, **more))
    return model


@given(
    before=st.integers(0, 9),
    count=st.integers(1, 23),
    groups=st.integers(1, 3),
    queries=st.integers(1, 30),
    scaling=st.sampled_from([None, 0.3]),
)
def test_it_is_causal_attention_and_has_its_gradient(
    before: int, count: int, groups: int, queries: int, scaling: float | None
) -> None:
    generator = torch.Generator().manual_seed(count)
    shapes = ((2, 2 * groups, count, 8), (2, 2, before + count, 8), (2, 2, before + count, 8))
    states = [torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes]
    weight = torch.randn(2, count, 2 * groups, 8, generator=generator)
    q, k, v = states
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "_QUERIES", queries)
        out, _ = causal_attention(torch.nn.Module(), q, k, v, None, scaling)
    mask = torch.ones(count, before + count, dtype=torch.bool).tril(before)
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling, enable_gqa=True).transpose(1, 2)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    found = torch.autograd.grad((out * weight).sum(), states)
    for got, wanted in zip(found, torch.autograd.grad((expected * weight).sum(), states), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["qwen3", "llama", "gemma"])
def test_plain_models_take_it_and_say_the_same(kind: str) -> None:
    model, ids = model_of(kind).eval(), torch.arange(60)[None]
    with torch.no_grad():
        expected = model(ids).logits
        use_causal_attention(model)
        found = model(ids).logits
    assert model.config._attn_implementation == "agentgrpo_causal"
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("mistral", {"sliding_window": 8}),
        ("gemma2", {}),  # windows and capped logits
        ("gpt_oss", {"num_local_experts": 2, "num_experts_per_tok": 1, "head_dim": 8}),  # sinks
        ("bloom", {"n_head": 4}),  # positions in its attention, which nothing can replace
    ],
)
def test_other_attention_stays_as_it_is(kind: str, more: dict[str, Any]) -> None:
    model, ids = model_of(kind, **more).eval(), torch.arange(60)[None]
    own = model.config._attn_implementation
    with torch.no_grad():
        expected = model(ids).logits
        use_causal_attention(model)
        assert torch.equal(model(ids).logits, expected)
    assert model.config._attn_implementation == own


def test_a_model_in_training_stays_in_training() -> None:
    model = model_of("qwen3", attention_dropout=0.5).train()
    use_causal_attention(model)
    assert model.training and model.config._attn_implementation == "agentgrpo_causal"
