"""Identities of the group baselines and their scaling (no trainer, no tokens)."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agentgrpo.learner.advantage import Baseline, ScaleRewards, advantages, group_advantages

BASELINES: tuple[Baseline, ...] = ("mean", "leave_one_out")
SCALES: tuple[ScaleRewards, ...] = ("none", "group", "batch")
REWARD_LISTS = st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=16)


def binary(successes: int, size: int) -> torch.Tensor:
    return torch.tensor([1.0] * successes + [0.0] * (size - successes))


def test_worked_example_of_two_successes_in_eight() -> None:
    rewards = binary(2, 8)
    assert group_advantages(rewards).unique().tolist() == [-0.25, 0.75]
    leave_one_out = group_advantages(rewards, baseline="leave_one_out")
    assert leave_one_out.unique().tolist() == pytest.approx([-2 / 7, 6 / 7])
    (scaled,) = advantages([rewards], scale_rewards="group", eps=0.0)
    population = torch.tensor([math.sqrt(3), -1 / math.sqrt(3)])
    torch.testing.assert_close(scaled[[0, -1]], population * math.sqrt(7 / 8))


@pytest.mark.parametrize(("size", "successes"), [(8, 2), (8, 3), (16, 1)])
def test_binary_rewards_contrast_successes_with_failures(size: int, successes: int) -> None:
    """The group's update is s * (mean score of successes - mean score of failures), s**2 without std."""
    rewards, spread = binary(successes, size), math.sqrt(successes * (size - successes)) / size
    scores = torch.randn(size, 4, generator=torch.Generator().manual_seed(0))
    contrast = scores[:successes].mean(0) - scores[successes:].mean(0)
    (centred,) = advantages([rewards])
    (scaled,) = advantages([rewards], scale_rewards="group", eps=0.0)
    torch.testing.assert_close((centred[:, None] * scores).mean(0), spread**2 * contrast)
    sample_factor = math.sqrt((size - 1) / size)
    torch.testing.assert_close((scaled[:, None] * scores).mean(0), spread * sample_factor * contrast)


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("scale_rewards", SCALES)
@pytest.mark.parametrize("reward", [0.0, 0.1, 1 / 3, 1e6 + 0.1])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # in float64 the mean of three 0.1 is not 0.1
def test_a_group_without_differences_has_exactly_no_advantage(
    baseline: Baseline, scale_rewards: ScaleRewards, reward: float, size: int, dtype: torch.dtype
) -> None:
    equal, other = torch.full((size,), reward, dtype=dtype), torch.tensor([0.0, 1.0])
    result, _ = advantages([equal, other], baseline=baseline, scale_rewards=scale_rewards)
    assert result.tolist() == [0.0] * size


@pytest.mark.parametrize("scale_rewards", SCALES)
def test_a_lone_episode_is_defined_as_zero(scale_rewards: ScaleRewards) -> None:
    assert [a.tolist() for a in advantages([torch.tensor([3.0])], scale_rewards=scale_rewards)] == [[0.0]]
    assert advantages([], scale_rewards=scale_rewards) == []


@given(rewards=REWARD_LISTS, baseline=st.sampled_from(BASELINES), scale_rewards=st.sampled_from(SCALES))
def test_advantages_of_a_group_sum_to_zero(
    rewards: list[float], baseline: Baseline, scale_rewards: ScaleRewards
) -> None:
    (result,) = advantages([torch.tensor(rewards)], baseline=baseline, scale_rewards=scale_rewards)
    assert float(result.double().sum()) == pytest.approx(0.0, abs=1e-6 * (1 + float(result.abs().sum())))


@given(rewards=st.lists(st.integers(-8, 8), min_size=1, max_size=16), shift=st.integers(-100, 100))
@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("scale_rewards", SCALES)
def test_a_shift_of_all_rewards_changes_nothing(
    baseline: Baseline, scale_rewards: ScaleRewards, rewards: list[int], shift: int
) -> None:
    plain = torch.tensor(rewards, dtype=torch.float64) / 8
    (expected,) = advantages([plain], baseline=baseline, scale_rewards=scale_rewards)
    (shifted,) = advantages([plain + shift], baseline=baseline, scale_rewards=scale_rewards)
    torch.testing.assert_close(shifted, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("scale_rewards", ["group", "batch"])
def test_scaled_advantages_ignore_the_unit_of_the_reward(scale_rewards: ScaleRewards) -> None:
    groups = [torch.tensor([0.0, 1.0, 4.0]), torch.tensor([2.0, 2.0, 5.0])]
    expected = advantages(groups, scale_rewards=scale_rewards, eps=0.0)
    result = advantages([100 * rewards for rewards in groups], scale_rewards=scale_rewards, eps=0.0)
    torch.testing.assert_close(result, expected)


@given(rewards=REWARD_LISTS)
def test_leave_one_out_is_the_mean_of_the_others_and_proportional_to_centring(rewards: list[float]) -> None:
    tensor, size = torch.tensor(rewards, dtype=torch.float64), len(rewards)
    result = group_advantages(tensor, baseline="leave_one_out")
    if size == 1:
        assert result.tolist() == [0.0]
        return
    torch.testing.assert_close(result, tensor - (tensor.sum() - tensor) / (size - 1), atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(result, size / (size - 1) * group_advantages(tensor), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize(("baseline", "factor"), [("leave_one_out", 1.0), ("mean", 0.5)])
def test_expected_update_over_all_pairs_of_a_three_armed_softmax(baseline: Baseline, factor: float) -> None:
    """RLOO is unbiased; centring gives (G - 1) / G of the gradient. By enumeration, G = 2."""
    logits = torch.tensor([0.3, -0.5, 1.1], dtype=torch.float64, requires_grad=True)
    arm_rewards = torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64)
    probabilities = logits.softmax(0)
    (gradient,) = torch.autograd.grad((probabilities * arm_rewards).sum(), logits, retain_graph=True)
    scores = torch.eye(3, dtype=torch.float64) - probabilities.detach()
    update = torch.zeros(3, dtype=torch.float64)
    for arms in itertools.product(range(3), repeat=2):
        pair = list(arms)
        weight = probabilities.detach()[pair].prod()
        group = group_advantages(arm_rewards[pair], baseline=baseline)
        update += weight * (group[:, None] * scores[pair]).mean(0)
    torch.testing.assert_close(update, factor * gradient)


def test_batch_scaling_divides_by_the_deviation_of_raw_rewards_as_trl_does() -> None:
    groups = [torch.tensor([0.0, 1.0]), torch.tensor([10.0, 11.0])]
    deviation = torch.cat(groups).double().std() + 1e-4
    for result in advantages(groups, scale_rewards="batch"):
        torch.testing.assert_close(result.double(), torch.tensor([-0.5, 0.5]).double() / deviation, atol=1e-7, rtol=0)


def test_batch_scaling_of_one_group_is_group_scaling() -> None:
    groups = [torch.tensor([0.0, 0.25, 1.0, 1.0])]
    torch.testing.assert_close(advantages(groups, scale_rewards="batch"), advantages(groups, scale_rewards="group"))


@pytest.mark.parametrize("scale_rewards", SCALES)
@pytest.mark.parametrize("unknown", [math.nan, math.inf])
def test_an_unknown_reward_is_out_of_the_baseline_and_gets_zero(scale_rewards: ScaleRewards, unknown: float) -> None:
    (with_unknown,) = advantages([torch.tensor([0.0, unknown, 1.0, 1.0])], scale_rewards=scale_rewards)
    (without,) = advantages([torch.tensor([0.0, 1.0, 1.0])], scale_rewards=scale_rewards)
    assert with_unknown[1] == 0.0
    torch.testing.assert_close(with_unknown[[0, 2, 3]], without)


@pytest.mark.parametrize(("p", "expected"), [(0.5, 0.464), (0.1, 0.209)])
def test_expected_gradient_mass_of_eight_binary_episodes(p: float, expected: float) -> None:
    """E[s] with s = sqrt(k(G-k)) / G: the mean absolute advantage is 2 s for population std, 2 s**2 unscaled."""
    mass = 0.0
    for k in range(9):
        probability = math.comb(8, k) * p**k * (1 - p) ** (8 - k)
        mass += probability * math.sqrt(float(group_advantages(binary(k, 8)).abs().mean()) / 2)
    assert mass == pytest.approx(expected, abs=5e-4)
