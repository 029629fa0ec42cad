"""Chunked logprobs against log_softmax over the whole vocabulary."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from agentgrpo.learner.logprobs import selected_logprobs

N, D, V = 7, 5, 23


def inputs(dtype: torch.dtype = torch.float64, *, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    hidden = (scale * torch.randn(N, D, generator=generator)).to(dtype).requires_grad_()
    weight = torch.randn(V, D, generator=generator).to(dtype).requires_grad_()
    bias = torch.randn(V, generator=generator).to(dtype).requires_grad_()
    token_ids = torch.tensor([0, V - 1, 7, 8, 3, 3, 15])  # both ends and both sides of chunk edges
    return hidden, weight, bias, token_ids


def direct(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, token_ids: Tensor, temperature: float, softcap: float | None
) -> tuple[Tensor, Tensor]:
    logits = hidden @ weight.T + (0 if bias is None else bias)
    logits = (logits if softcap is None else softcap * torch.tanh(logits / softcap)) / temperature
    log_p = logits.log_softmax(1)
    return log_p.gather(1, token_ids[:, None])[:, 0], -(log_p.exp() * log_p).sum(1)


@settings(max_examples=40, deadline=None)
@given(
    chunk=st.integers(1, V + 5),
    temperature=st.sampled_from([1.0, 0.7, 1.3]),
    softcap=st.sampled_from([None, 2.0]),
    has_bias=st.booleans(),
)
def test_values_and_gradients_equal_the_direct_formula_for_any_chunk(
    chunk: int, temperature: float, softcap: float | None, has_bias: bool
) -> None:
    hidden, weight, bias, token_ids = inputs()
    leaves = (hidden, weight, bias) if has_bias else (hidden, weight)
    head = (hidden, weight, bias if has_bias else None, token_ids)
    logprobs, entropy = selected_logprobs(*head, temperature=temperature, softcap=softcap, chunk=chunk)
    expected, expected_entropy = direct(*head, temperature, softcap)
    torch.testing.assert_close(logprobs, expected)
    torch.testing.assert_close(entropy, expected_entropy.detach())
    upstream = torch.linspace(-1, 2, N, dtype=torch.float64)
    gradients = torch.autograd.grad(logprobs, leaves, upstream)
    for gradient, reference in zip(gradients, torch.autograd.grad(expected, leaves, upstream), strict=True):
        torch.testing.assert_close(gradient, reference)


@pytest.mark.parametrize("chunk", [4, V])
def test_entropy_is_detached(chunk: int) -> None:
    logprobs, entropy = selected_logprobs(*inputs(), chunk=chunk)
    assert logprobs.requires_grad
    assert not entropy.requires_grad


@pytest.mark.parametrize("chunk", [4, V])
def test_no_gradient_is_built_when_none_is_wanted(chunk: int) -> None:
    with torch.no_grad():
        logprobs, _ = selected_logprobs(*inputs(), chunk=chunk)
    assert not logprobs.requires_grad
    torch.testing.assert_close(logprobs, selected_logprobs(*inputs(), chunk=chunk)[0].detach())


@pytest.mark.parametrize("chunk", [4, V])
def test_bf16_inputs_and_autocast_are_computed_in_fp32(chunk: int) -> None:
    hidden, weight, bias, token_ids = inputs(torch.bfloat16, scale=8.0)
    wide = (hidden.detach().float(), weight.detach().float(), bias.detach().float())
    expected, expected_entropy = direct(*wide, token_ids, 1.0, None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logprobs, entropy = selected_logprobs(hidden, weight, bias, token_ids, chunk=chunk)
    assert logprobs.dtype == entropy.dtype == torch.float32
    torch.testing.assert_close(logprobs, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(entropy, expected_entropy, atol=1e-5, rtol=1e-5)
    logprobs.sum().backward()
    assert hidden.grad is not None
    assert hidden.grad.dtype == torch.bfloat16
    assert bool(hidden.grad.isfinite().all())


@pytest.mark.parametrize("chunk", [4, V])
def test_logits_too_large_to_exponentiate_are_fine(chunk: int) -> None:
    hidden, weight, bias, token_ids = inputs(torch.float32, scale=1e4)
    logprobs, entropy = selected_logprobs(hidden, weight, bias, token_ids, chunk=chunk)
    torch.testing.assert_close(logprobs, direct(hidden, weight, bias, token_ids, 1.0, None)[0], atol=1e-2, rtol=1e-5)
    assert bool(entropy.isfinite().all())
    (gradient,) = torch.autograd.grad(logprobs.sum(), hidden)
    assert bool(gradient.isfinite().all())


def test_logits_over_the_vocabulary_are_not_kept_for_the_backward_pass() -> None:
    tokens, vocabulary, chunk = 64, 4096, 256
    hidden = torch.randn(tokens, 4, generator=torch.Generator().manual_seed(4)).requires_grad_()
    weight = torch.randn(vocabulary, 4, generator=torch.Generator().manual_seed(5))
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logprobs, _ = selected_logprobs(hidden, weight, None, torch.arange(tokens), chunk=chunk)
    assert sum(kept) < tokens * vocabulary / 8
    logprobs.sum().backward()
    assert hidden.grad is not None


def test_no_tokens_give_no_logprobs() -> None:
    hidden, weight, bias, _ = inputs()
    logprobs, entropy = selected_logprobs(hidden[:0], weight, bias, torch.empty(0, dtype=torch.long), chunk=4)
    assert logprobs.shape == entropy.shape == (0,)


@pytest.mark.parametrize("token_id", [-100, -1, V])
def test_a_token_outside_the_vocabulary_is_refused_and_not_scored(token_id: int) -> None:
    hidden, weight, bias, _ = inputs()
    with pytest.raises(ValueError, match=rf"token ids are in .*{token_id}.*, expected 0\.\.{V - 1}"):
        selected_logprobs(hidden[:1], weight, bias, torch.tensor([token_id]))


@pytest.mark.parametrize("wrong", [{"temperature": 0.0}, {"chunk": 0}])
def test_greedy_temperature_and_empty_chunks_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected both greater than 0"):
        selected_logprobs(*inputs(), **wrong)  # type: ignore[arg-type]
