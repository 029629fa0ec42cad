"""Which episodes train, and the counts of those that do not."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agentgrpo.learner.advantage import group_advantages
from agentgrpo.learner.filters import Decision, FilterReason, count_reasons, filter_groups, no_signal
from agentgrpo.types import EpisodeKey, Group, Policy, Span, StopReason, Task, Trajectory


def episode(sample: int, reward: float | None, *, stop: StopReason = StopReason.DONE, sampled: int = 3) -> Trajectory:
    prompt = Span(parent=-1, token_ids=(1, 2), sampled=False)
    reply = Span(parent=0, token_ids=(5,) * sampled, sampled=True, logprobs=(-0.5,) * sampled, policy_version=0)
    return Trajectory(
        key=EpisodeKey(phase="train", step=0, task_id="t", sample=sample),
        env_id="env",
        seed=0,
        policy=Policy(),
        prompt=(),
        tools=(),
        spans=(prompt, reply) if sampled else (prompt,),
        turns=(),
        stop_reason=stop,
        reward=reward,
    )


def group(*trajectories: Trajectory) -> Group:
    return Group(task=Task(id="t", row={}), trajectories=trajectories)


def rewarded(rewards: Sequence[float]) -> Group:
    return group(*(episode(i, reward) for i, reward in enumerate(rewards)))


def reasons(decisions: Sequence[Decision]) -> list[str | None]:
    return [decision.reason and decision.reason.value for decision in decisions]


def test_a_mixed_group_trains_in_order() -> None:
    decisions = filter_groups([rewarded([0.0, 1.0]), rewarded([1.0, 0.0, 1.0])])
    assert all(decision.trains for decision in decisions)
    assert [decision.key.sample for decision in decisions] == [0, 1, 0, 1, 2]


def test_a_group_without_signal_is_left_out_unless_kept() -> None:
    groups = [rewarded([0.1, 0.1, 0.1])]
    assert reasons(filter_groups(groups)) == ["zero_variance"] * 3
    assert reasons(filter_groups(groups, drop_zero_variance=False)) == [None] * 3


def test_truncated_episodes_are_masked_and_keep_their_group_alive() -> None:
    """The failure by truncation is what gives the successes their advantage."""
    truncated = episode(0, 0.0, stop=StopReason.MAX_TURNS)
    groups = [group(truncated, episode(1, 1.0), episode(2, 1.0))]
    assert reasons(filter_groups(groups)) == ["truncated", None, None]
    assert reasons(filter_groups(groups, mask_truncated=False)) == [None, None, None]


def test_an_episode_without_sampled_tokens_does_not_train() -> None:
    groups = [group(episode(0, 0.0, sampled=0), episode(1, 1.0))]
    assert reasons(filter_groups(groups)) == ["nothing_sampled", None]


def test_a_non_finite_reward_is_out_of_its_group() -> None:
    assert reasons(filter_groups([rewarded([math.nan, 0.0, 1.0])])) == ["non_finite_reward", None, None]
    assert reasons(filter_groups([rewarded([math.inf, 1.0, 1.0])])) == ["non_finite_reward"] + ["zero_variance"] * 2


def test_groups_with_too_few_survivors_are_left_out() -> None:
    groups = [rewarded([0.0, 1.0]), rewarded([0.0, 1.0, 1.0])]
    assert reasons(filter_groups(groups, min_survivors=3)) == ["too_few_survivors"] * 2 + [None] * 3
    assert reasons(filter_groups([rewarded([1.0])])) == ["too_few_survivors"]
    assert reasons(filter_groups([rewarded([math.nan, 1.0])])) == ["non_finite_reward", "too_few_survivors"]


def test_the_group_s_reason_comes_before_the_episode_s() -> None:
    groups = [group(episode(0, 0.0, stop=StopReason.DEADLINE), episode(1, 0.0, sampled=0))]
    assert reasons(filter_groups(groups)) == ["zero_variance", "zero_variance"]
    assert reasons(filter_groups(groups, drop_zero_variance=False)) == ["truncated", "nothing_sampled"]


def test_no_group_gives_no_decision_and_measured_zeros() -> None:
    assert filter_groups([]) == []
    assert count_reasons([]) == dict.fromkeys(FilterReason, 0)


REWARDS = st.sampled_from([0.0, 0.1, 1.0, math.nan])
EPISODES = st.builds(
    episode, st.integers(0, 9), REWARDS, stop=st.sampled_from(list(StopReason)), sampled=st.integers(0, 2)
)
GROUPS = st.lists(st.lists(EPISODES, max_size=5).map(lambda episodes: group(*episodes)), max_size=4)


@given(groups=GROUPS, drop=st.booleans(), mask=st.booleans(), survivors=st.integers(0, 3))
def test_counts_add_up_and_what_trains_can_train(groups: list[Group], drop: bool, mask: bool, survivors: int) -> None:
    decisions = filter_groups(groups, drop_zero_variance=drop, mask_truncated=mask, min_survivors=survivors)
    trajectories = [trajectory for one in groups for trajectory in one.trajectories]
    assert [decision.key for decision in decisions] == [trajectory.key for trajectory in trajectories]
    assert sum(count_reasons(decisions).values()) + sum(d.trains for d in decisions) == len(trajectories)
    for decision, trajectory in zip(decisions, trajectories, strict=True):
        if decision.trains:
            assert trajectory.reward is not None
            assert math.isfinite(trajectory.reward)
            assert trajectory.sampled_count > 0
            assert not (mask and trajectory.stop_reason.is_truncated)


@given(rewards=st.lists(REWARDS, min_size=2, max_size=6))
def test_zero_variance_is_exactly_a_group_whose_advantages_are_all_zero(rewards: list[float]) -> None:
    decisions = filter_groups([rewarded(rewards)], min_survivors=0)
    has_signal = bool(group_advantages(torch.tensor(rewards)).any())
    assert any(decision.trains for decision in decisions) == has_signal


@pytest.mark.parametrize(
    ("rewards", "end"),
    [((1.0, 1.0), "; all succeeded"), ((0.0, 0.5), "; none succeeded"), ((1.0, 0.0), "rewards are all equal")],
)
def test_a_step_without_signal_says_whether_all_went_well(rewards: tuple[float, float], end: str) -> None:
    groups = [rewarded([reward] * 4) for reward in rewards]
    decisions = filter_groups(groups, drop_zero_variance=True, mask_truncated=True, min_survivors=2)
    note = no_signal(groups, decisions, 1)
    assert note.startswith("nothing to learn from: of 8 scored episodes 8 ")
    assert note.endswith(end)
