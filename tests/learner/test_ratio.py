"""Importance levels and mismatch figures on flat token lists."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agentgrpo.learner.ratio import (
    LOG_RATIO_LIMIT,
    Level,
    Truncation,
    effective_sample_size,
    kl_k3,
    log_ratio,
    ratio_sums,
    truncated_weights,
)

LEVELS: tuple[Level, ...] = ("token", "turn", "sequence")
# Two episodes; the first has turns of 2 and 1 tokens, the second of 1 and 3. Turn numbers repeat across episodes.
EPISODES = torch.tensor([0, 0, 0, 1, 1, 1, 1])
TURNS = torch.tensor([0, 0, 1, 0, 1, 1, 1])


def logprob_pair(size: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    behaviour = torch.randn(size, generator=generator, dtype=torch.float64) - 2
    return behaviour + 0.3 * torch.randn(size, generator=generator, dtype=torch.float64), behaviour


def sample_size(logprobs: torch.Tensor, behaviour: torch.Tensor) -> float:
    return effective_sample_size(*ratio_sums(logprobs, behaviour), len(logprobs))


def loop_over_segments(difference: torch.Tensor, segments: list[list[int]]) -> torch.Tensor:
    result = torch.empty_like(difference)
    for segment in segments:
        result[segment] = difference[segment].mean()
    return result


def test_each_level_equals_an_unfused_loop() -> None:
    logprobs, behaviour = logprob_pair()
    difference = logprobs - behaviour
    turns = loop_over_segments(difference, [[0, 1], [2], [3], [4, 5, 6]])
    episodes = loop_over_segments(difference, [[0, 1, 2], [3, 4, 5, 6]])
    for level, expected in zip(LEVELS, (difference, turns, episodes), strict=True):
        torch.testing.assert_close(log_ratio(logprobs, behaviour, EPISODES, TURNS, level), expected)


def test_tokens_of_a_segment_need_not_be_adjacent() -> None:
    logprobs, behaviour = logprob_pair()
    order = torch.tensor([4, 0, 3, 6, 2, 1, 5])
    for level in LEVELS:
        expected = log_ratio(logprobs, behaviour, EPISODES, TURNS, level)[order]
        shuffled = log_ratio(logprobs[order], behaviour[order], EPISODES[order], TURNS[order], level)
        torch.testing.assert_close(shuffled, expected)


def test_one_turn_episodes_make_turn_level_sequence_level() -> None:
    logprobs, behaviour = logprob_pair()
    one_turn = torch.zeros_like(TURNS)
    expected = log_ratio(logprobs, behaviour, EPISODES, one_turn, "sequence")
    assert torch.equal(log_ratio(logprobs, behaviour, EPISODES, one_turn, "turn"), expected)


@given(st.lists(st.floats(-5, 0), min_size=1, max_size=8))
def test_one_token_segments_make_every_level_token_level(values: list[float]) -> None:
    logprobs, behaviour = torch.tensor(values), torch.full((len(values),), -1.0)
    each_its_own = torch.arange(len(values))
    zeros = torch.zeros_like(each_its_own)
    expected = log_ratio(logprobs, behaviour, zeros, zeros, "token")
    assert torch.equal(log_ratio(logprobs, behaviour, each_its_own, zeros, "sequence"), expected)
    assert torch.equal(log_ratio(logprobs, behaviour, zeros, each_its_own, "turn"), expected)


@pytest.mark.parametrize("level", LEVELS)
def test_same_policy_gives_exactly_no_ratio_and_no_tokens_give_none(level: Level) -> None:
    logprobs, _ = logprob_pair()
    assert torch.equal(log_ratio(logprobs, logprobs, EPISODES, TURNS, level), torch.zeros_like(logprobs))
    empty, no_index = torch.empty(0), torch.empty(0, dtype=torch.long)
    assert log_ratio(empty, empty, no_index, no_index, level).shape == (0,)


def test_gradient_flows_through_the_mean_and_not_into_the_behaviour_policy() -> None:
    logprobs, behaviour = logprob_pair()
    logprobs.requires_grad_()
    behaviour.requires_grad_()
    log_ratio(logprobs, behaviour, EPISODES, TURNS, "sequence")[0].backward()
    assert logprobs.grad is not None
    assert behaviour.grad is None
    torch.testing.assert_close(logprobs.grad, torch.tensor([1 / 3] * 3 + [0.0] * 4, dtype=torch.float64))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("distance", [1e4, math.inf])
def test_an_absurd_ratio_stays_finite_in_fp32(level: Level, distance: float) -> None:
    logprobs = torch.zeros(7, requires_grad=True)
    result = log_ratio(logprobs, torch.full((7,), -distance), EPISODES, TURNS, level)
    assert result.tolist() == [LOG_RATIO_LIMIT] * 7
    assert bool(result.exp().square().isfinite().all())
    result.sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [0.0] * 7


def test_long_segments_keep_a_mean_where_a_product_would_vanish() -> None:
    behaviour = torch.full((5000,), -1.0)
    zeros = torch.zeros(5000, dtype=torch.long)
    result = log_ratio(behaviour - 0.01, behaviour, zeros, zeros, "sequence")
    torch.testing.assert_close(result, torch.full((5000,), -0.01), atol=1e-5, rtol=0)


def test_mismatch_figures_have_their_expected_values_under_the_behaviour_policy() -> None:
    """By enumeration: E_mu[k3] = KL(mu || pi), and the sample size is 1 / (1 + chi2)."""
    counts = torch.tensor([5, 3, 2])  # ten tokens distributed exactly as mu
    mu, pi = counts / 10, torch.tensor([0.4, 0.4, 0.2])
    behaviour, logprobs = (p.double().log().repeat_interleave(counts) for p in (mu, pi))
    assert float(kl_k3(logprobs, behaviour)) == pytest.approx(float((mu * (mu / pi).log()).sum()), abs=1e-6)
    chi2 = float((pi**2 / mu).sum()) - 1
    assert sample_size(logprobs, behaviour) == pytest.approx(1 / (1 + chi2), rel=1e-6)


def test_mismatch_figures_of_equal_policies_are_exact_and_carry_no_gradient() -> None:
    logprobs, _ = logprob_pair()
    logprobs.requires_grad_()
    assert float(kl_k3(logprobs, logprobs)) == 0.0
    assert sample_size(logprobs, logprobs) == 1.0
    assert not kl_k3(logprobs, logprobs).requires_grad


def test_one_dominant_token_is_one_effective_sample() -> None:
    behaviour = torch.full((50,), -19.0)
    logprobs = behaviour.clone()
    logprobs[7] = 0.0
    assert sample_size(logprobs, behaviour) == pytest.approx(1 / 50, rel=1e-5)


@given(st.lists(st.tuples(st.floats(-30, 0), st.floats(-30, 0)), min_size=1, max_size=8))
def test_k3_is_never_negative_and_the_sample_size_is_a_fraction(pairs: list[tuple[float, float]]) -> None:
    logprobs, behaviour = torch.tensor(pairs).T
    assert float(kl_k3(logprobs, behaviour)) >= 0.0
    assert 1 / len(pairs) - 1e-9 <= sample_size(logprobs, behaviour) <= 1.0 + 1e-9


def naive_weights(
    old: list[float], engine: list[float], episodes: list[int], kind: Truncation, cap: float, floor: float | None
) -> list[float]:
    """The definition, written out token by token."""
    log_rho = [a - b for a, b in zip(old, engine, strict=True)]
    if kind.startswith("sequence"):
        log_rho = [sum(r for r, f in zip(log_rho, episodes, strict=True) if f == e) for e in episodes]
    rho = [math.exp(max(-LOG_RATIO_LIMIT, min(LOG_RATIO_LIMIT, r))) for r in log_rho]
    low = 0.0 if floor is None else floor
    if kind.endswith("mask"):
        return [r if low <= r <= cap else 0.0 for r in rho]
    return [min(max(r, low), cap) for r in rho]


TOKENS = st.tuples(st.floats(-30, 0), st.floats(-30, 0), st.integers(0, 2))
KINDS = get_args(Truncation)


@given(st.lists(TOKENS, max_size=9), st.sampled_from(KINDS), st.floats(1, 10), st.none() | st.floats(0.01, 1))
def test_truncated_weights_equal_the_definition(
    tokens: list[tuple[float, float, int]], kind: Truncation, cap: float, floor: float | None
) -> None:
    old, engine, episodes = ([token[i] for token in tokens] for i in range(3))
    weights, bound = truncated_weights(
        torch.tensor(old, dtype=torch.float64),
        torch.tensor(engine, dtype=torch.float64),
        torch.tensor(episodes, dtype=torch.long),
        kind=kind,
        cap=cap,
        floor=floor,
    )
    expected = naive_weights(old, engine, [int(e) for e in episodes], kind, cap, floor)
    # Sums in another order may fall on the other side of a bound.
    free = naive_weights(old, engine, [int(e) for e in episodes], kind, math.inf, None)
    for weight, is_bound, value, rho in zip(weights.tolist(), bound.tolist(), expected, free, strict=True):
        if all(abs(rho / bound - 1) > 1e-9 for bound in (cap, floor or cap)):
            assert weight == pytest.approx(value, rel=1e-9)
            assert is_bound == (rho > cap or rho < (floor or 0.0))


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_exactly_one_when_engine_and_learner_agree_and_never_carry_a_gradient(kind: Truncation) -> None:
    old = torch.tensor([-1.0, -2.5, -0.1], requires_grad=True)
    weights, bound = truncated_weights(old, old.detach(), torch.tensor([0, 0, 1]), kind=kind, floor=0.5)
    assert weights.tolist() == [1.0, 1.0, 1.0]
    assert not bound.any()
    assert not weights.requires_grad


def test_a_product_shrinks_with_length_where_tokens_do_not() -> None:
    """What makes the sequence kinds a trap for long episodes: no weight is bound, and none is left."""
    engine, episode = torch.full((5000,), -1.0), torch.zeros(5000, dtype=torch.long)
    product, bound = truncated_weights(engine - 0.01, engine, episode, kind="sequence_mask")
    assert float(product.max()) < 1e-8
    assert not bound.any()
    assert truncated_weights(engine - 0.01, engine, episode)[0].min() > 0.98


def test_unbounded_weights_are_unbiased_under_the_engine() -> None:
    mu, old = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.4, 0.4, 0.2])
    values = torch.tensor([1.0, -2.0, 5.0])
    weights, _ = truncated_weights(old.log(), mu.log(), torch.arange(3), cap=math.inf)
    assert float((mu * weights).sum()) == pytest.approx(1.0, abs=1e-6)
    assert float((mu * weights * values).sum()) == pytest.approx(float((old * values).sum()), abs=1e-6)
