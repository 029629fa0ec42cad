"""Surrogates and KL estimators against closed forms, always off-policy where they differ."""

from __future__ import annotations

import math

import pytest
import torch

from agentgrpo.learner.aggregation import token_weights
from agentgrpo.learner.loss import KLEstimator, LossType, kl_penalty, token_loss
from agentgrpo.learner.ratio import Level, log_ratio

LOSS_TYPES: tuple[LossType, ...] = ("clip", "cispo", "mask", "reinforce")


def gradient_of(
    loss_type: LossType, ratios: list[float], advantage: float, *, epsilon: float = 0.2, epsilon_high: float = 0.28
) -> tuple[list[float], list[bool]]:
    """Return the gradient of each token's loss in its logprob, and what was bound, at the given ratios."""
    behaviour = torch.full((len(ratios),), -1.0, dtype=torch.float64)
    logprobs = (behaviour + torch.tensor(ratios, dtype=torch.float64).log()).requires_grad_()
    loss, bound = token_loss(
        logprobs,
        logprobs - behaviour,
        torch.full_like(behaviour, advantage),
        loss_type=loss_type,
        epsilon=epsilon,
        epsilon_high=epsilon_high,
    )
    (gradient,) = torch.autograd.grad(loss.sum(), logprobs)
    return gradient.tolist(), bound.tolist()


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@pytest.mark.parametrize("advantage", [0.75, -0.25, 0.0])
def test_on_policy_every_surrogate_has_the_gradient_of_reinforce(loss_type: LossType, advantage: float) -> None:
    gradient, bound = gradient_of(loss_type, [1.0, 1.0], advantage)
    assert gradient == [-advantage, -advantage]
    assert bound == [False, False]


@pytest.mark.parametrize(
    ("loss_type", "advantage", "expected", "bound"),
    [
        ("clip", 1.0, [-0.5, -1.1, 0.0], [False, False, True]),
        ("clip", -1.0, [0.0, 1.1, 3.0], [True, False, False]),
        ("cispo", 1.0, [-0.8, -1.1, -1.28], [True, False, True]),
        ("cispo", -1.0, [0.8, 1.1, 1.28], [True, False, True]),
        ("mask", 1.0, [0.0, -1.1, 0.0], [True, False, True]),
        ("mask", -1.0, [0.0, 1.1, 0.0], [True, False, True]),
        ("reinforce", 1.0, [-1.0, -1.0, -1.0], [False, False, False]),
        ("reinforce", -1.0, [1.0, 1.0, 1.0], [False, False, False]),
    ],
)
def test_gradient_table_below_inside_and_above_the_region(
    loss_type: LossType, advantage: float, expected: list[float], bound: list[bool]
) -> None:
    gradient, is_bound = gradient_of(loss_type, [0.5, 1.1, 3.0], advantage)
    assert gradient == pytest.approx(expected)
    assert is_bound == bound


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [(2.0, 1.0, -1.28), (2.0, -1.0, 2.0), (0.5, 1.0, -0.5), (0.5, -1.0, 0.8), (1.1, 1.0, -1.1)],
)
def test_clip_values_have_dapo_s_two_bounds(ratio: float, advantage: float, expected: float) -> None:
    log_ratio_N = torch.tensor([math.log(ratio)])
    loss, _ = token_loss(log_ratio_N - 1, log_ratio_N, torch.tensor([advantage]), loss_type="clip")
    assert float(loss) == pytest.approx(expected)


def test_cispo_with_epsilon_one_has_a_ceiling_only() -> None:
    """TRL's absolute ceiling of 5.0 is epsilon_high = 4.0."""
    gradient, bound = gradient_of("cispo", [0.01, 1.0, 4.9, 50.0], 1.0, epsilon=1.0, epsilon_high=4.0)
    assert gradient == pytest.approx([-0.01, -1.0, -4.9, -5.0])
    assert bound == [False, False, False, True]


@pytest.mark.parametrize(
    ("epsilon", "epsilon_high", "kept"), [(0.0, 0.5, False), (0.5, 0.0, False), (1e-9, 1e-9, True)]
)
def test_mask_edges_are_strict_on_both_sides(epsilon: float, epsilon_high: float, kept: bool) -> None:
    """At ratio exactly 1, a bound exactly at 1 masks (f(x) = x iff 1 - e_l < x < 1 + e_h)."""
    gradient, bound = gradient_of("mask", [1.0], 1.0, epsilon=epsilon, epsilon_high=epsilon_high)
    assert gradient == [-1.0 if kept else 0.0]
    assert bound == [not kept]


def test_mask_keeps_the_ranges_published_for_coding() -> None:
    """SAO: epsilon .8, epsilon_high 3.0 keeps weights in (.2, 4)."""
    gradient, _ = gradient_of("mask", [0.19, 0.21, 3.9, 4.1], 1.0, epsilon=0.8, epsilon_high=3.0)
    assert gradient == pytest.approx([0.0, -0.21, -3.9, 0.0])


@pytest.mark.parametrize("loss_type", ["cispo", "mask", "reinforce"])
def test_weights_are_detached(loss_type: LossType) -> None:
    """The ratio may carry a gradient of its own; only the logprob's may be used."""
    own = torch.tensor([0.1], requires_grad=True)
    logprobs = torch.tensor([-1.0], requires_grad=True)
    loss, _ = token_loss(logprobs, own * 1.0, torch.tensor([1.0]), loss_type=loss_type)
    loss.sum().backward()
    assert own.grad is None
    assert logprobs.grad is not None


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_absurd_ratios_keep_loss_and_gradient_finite(loss_type: LossType, advantage: float) -> None:
    logprobs = torch.tensor([-1e4, -1e-3], requires_grad=True)
    index = torch.zeros(2, dtype=torch.long)
    ratio = log_ratio(logprobs, torch.tensor([-1e-3, -1e4]), index, index, "token")
    loss, _ = token_loss(logprobs, ratio, torch.full((2,), advantage), loss_type=loss_type)
    loss.sum().backward()
    assert logprobs.grad is not None
    assert bool(loss.isfinite().all())
    assert bool(logprobs.grad.isfinite().all())


def gspo_pieces() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    episodes = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1, 2, 2])
    behaviour = torch.randn(10, generator=generator, dtype=torch.float64) - 2
    logprobs = (behaviour + 0.1 * torch.randn(10, generator=generator, dtype=torch.float64)).requires_grad_()
    return logprobs, behaviour, torch.tensor([1.2, -0.7, 0.4], dtype=torch.float64)[episodes], episodes


def step_gradient(level: Level, loss_type: LossType, episodes: torch.Tensor, **region: float) -> torch.Tensor:
    logprobs, behaviour, advantages, _ = gspo_pieces()
    lengths = torch.bincount(episodes)
    weights = token_weights(
        episodes, kind="sequence_mean", total_tokens=10, total_episodes=len(lengths), tokens_per_episode=lengths
    )
    ratio = log_ratio(logprobs, behaviour, episodes, torch.zeros_like(episodes), level)
    loss, _ = token_loss(logprobs, ratio, advantages, loss_type=loss_type, **region)
    (gradient,) = torch.autograd.grad((weights * loss).sum(), logprobs)
    return gradient


def test_gspo_gradient_is_that_of_gspo_token() -> None:
    """For one advantage per episode: -s_i A_i / (E |o_i|) on every token of episode i."""
    logprobs, behaviour, advantages, episodes = gspo_pieces()
    gradient = step_gradient("sequence", "clip", episodes, epsilon=0.9, epsilon_high=9.0)
    for i in range(3):
        mine = episodes == i
        s = (logprobs - behaviour)[mine].mean().exp()
        expected = -s * advantages[mine] / (3 * int(mine.sum()))
        torch.testing.assert_close(gradient[mine], expected.detach(), rtol=1e-6, atol=0)


def test_gspo_of_one_token_episodes_is_the_token_level() -> None:
    alone = torch.arange(10)
    assert torch.equal(step_gradient("sequence", "clip", alone), step_gradient("token", "clip", alone))


POLICY = torch.tensor([0.5, -1.2, 0.3, 2.0, -0.4, 0.1], dtype=torch.float64)
REFERENCE = torch.tensor([-0.3, 0.8, 0.0, 1.1, 0.6, -1.5], dtype=torch.float64)


def enumerated(estimator: KLEstimator) -> tuple[float, torch.Tensor]:
    """Return value and gradient of the estimator, in expectation over all six tokens of a softmax policy."""
    logits = POLICY.clone().requires_grad_()
    penalty = kl_penalty(logits.log_softmax(0), REFERENCE.log_softmax(0), estimator)
    weighted = (POLICY.softmax(0) * penalty).sum()  # sampled: no gradient through the probabilities
    (gradient,) = torch.autograd.grad(weighted, logits)
    return float(weighted.detach()), gradient


def exact_kl(forward: bool) -> tuple[float, torch.Tensor]:
    logits = POLICY.clone().requires_grad_()
    log_p, log_q = logits.log_softmax(0), REFERENCE.log_softmax(0)
    value = (log_q.exp() * (log_q - log_p)).sum() if forward else (log_p.exp() * (log_p - log_q)).sum()
    (gradient,) = torch.autograd.grad(value, logits)
    return float(value.detach()), gradient


def test_k1_and_k3_have_the_value_of_the_kl_and_k2_has_not() -> None:
    kl, _ = exact_kl(forward=False)
    assert enumerated("k1")[0] == pytest.approx(kl)
    assert enumerated("k3")[0] == pytest.approx(kl)
    assert enumerated("k2")[0] != pytest.approx(kl, rel=0.05)


def test_expected_gradients_of_the_estimators_as_loss_terms() -> None:
    torch.testing.assert_close(enumerated("k1")[1], torch.zeros(6, dtype=torch.float64))
    torch.testing.assert_close(enumerated("k2")[1], exact_kl(forward=False)[1])
    torch.testing.assert_close(enumerated("k3")[1], exact_kl(forward=True)[1])


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_kl_of_equal_policies_is_exactly_zero_and_far_ones_stay_finite(estimator: KLEstimator) -> None:
    logprobs = torch.tensor([-0.1, -3.0])
    assert kl_penalty(logprobs, logprobs, estimator).tolist() == [0.0, 0.0]
    assert bool(kl_penalty(torch.tensor([-1e4, 0.0]), torch.tensor([0.0, -1e4]), estimator).isfinite().all())
