from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from agentgrpo.config.run import LearnerConfig, LoraConfig
from agentgrpo.learner.batch import Row, pack
from agentgrpo.learner.filters import FilterReason
from agentgrpo.learner.policy import LoraPolicy
from agentgrpo.learner.step import Learner
from agentgrpo.types import Group, Span, StopReason
from tests.learner.episodes import group, groups, learner, policy, weights


def double(model: PreTrainedModel) -> LoraPolicy:
    made = policy(copy.deepcopy(model).double())
    made.model.double()
    return made


def gradient(
    model: PreTrainedModel, batch: list[Group], *, share_prefix: bool = True, **config: Any
) -> tuple[torch.Tensor, float]:
    """Return the gradient of one train step in float64, read off a plain gradient step, and the loss."""
    made = double(model)
    made.shares_prefix = share_prefix
    trained = learner(made, learning_rate=1.0, max_grad_norm=1e9, **config)
    trained.optimizer = torch.optim.SGD(made.parameters(), lr=1.0)  # type: ignore[assignment]
    before = weights(made)
    metrics = trained.step(batch).metrics
    return before - weights(made), metrics["loss"]


@pytest.mark.parametrize("share_prefix", [True, False])
@pytest.mark.parametrize("budget", [1, 150, 10**6])
@pytest.mark.parametrize(
    "axes",
    [
        {},
        {"importance_level": "turn"},
        {"importance_level": "sequence", "aggregation": "sequence_mean"},
        {"algorithm": "grpo"},
        {"loss_type": "cispo", "baseline": "leave_one_out"},
    ],
    ids=lambda axes: "-".join(map(str, axes.values())) or "default",
)
def test_the_gradient_does_not_depend_on_how_a_step_is_cut_up(
    model: PreTrainedModel, axes: dict[str, Any], budget: int, share_prefix: bool
) -> None:
    """Neither on microbatches, nor on padding, nor on whether a prefix is computed once or in every row."""
    expected, loss = gradient(model, groups(), tokens_per_microbatch=400, **axes)
    got, its_loss = gradient(model, groups(), share_prefix=share_prefix, tokens_per_microbatch=budget, **axes)
    assert float(expected.abs().max()) > 1e-4
    # Not closer: norms and rotations are computed in float32 whatever the model is.
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-7)
    assert its_loss == pytest.approx(loss, abs=1e-7)


def test_small_shares_of_the_loss_keep_their_gradient_in_float16(model: PreTrainedModel) -> None:
    """The weight of a token is 1 / (8 * 10**6) here: below all numbers of float16."""

    def direction(dtype: torch.dtype) -> torch.Tensor:
        made = policy(copy.deepcopy(model).to(dtype))  # type: ignore[arg-type]  # a decorator of transformers hides `self`
        config = LearnerConfig(aggregation="constant", learning_rate=1.0, max_grad_norm=1e9)
        trained = Learner(made, config, total_steps=1, max_episode_tokens=10**6)
        gradients: list[torch.Tensor] = []
        trained.optimizer.register_step_pre_hook(
            lambda *_: gradients.extend(p.grad.flatten() for p in made.parameters() if p.grad is not None)
        )
        trained.step(groups())
        return torch.cat(gradients)

    exact, half = direction(torch.float32), direction(torch.float16)
    assert float(torch.nn.functional.cosine_similarity(half, exact, dim=0)) > 0.99
    assert float(half.norm() / exact.norm()) == pytest.approx(1.0, rel=0.05)


def test_a_microbatch_holds_its_budget_where_prefixes_are_computed_in_every_row(model: PreTrainedModel) -> None:
    made = LoraPolicy(copy.deepcopy(model), LoraConfig(rank=4), seed=0, gradient_checkpointing=True)
    trained, sizes = learner(made, tokens_per_microbatch=200), []
    computed = made.model.get_input_embeddings().register_forward_hook(lambda _, ids, __: sizes.append(ids[0].numel()))
    trained.step(groups())
    computed.remove()
    longest = max(sum(len(s.token_ids) for s in t.sequences()) for g in groups() for t in g.trajectories)
    assert max(sizes) <= max(200, longest)


def test_the_gradient_is_that_of_the_formula(model: PreTrainedModel) -> None:
    """Token-mean clipped policy gradient, written out over single rows and plain forward passes."""
    batch, made = groups(), double(model)
    count = sum(t.sampled_count for g in batch for t in g.trajectories)
    total = torch.zeros((), dtype=torch.float64)
    for g in batch:
        mean = sum(g.rewards) / len(g.rewards)
        for t in g.trajectories:
            assert t.reward is not None
            for s in t.sequences():
                log_p = made.causal_lm(torch.tensor([s.token_ids])).logits[0].log_softmax(-1)
                for i, m in enumerate(s.loss_mask):
                    if m:
                        ratio = (log_p[i - 1, s.token_ids[i]] - s.rollout_logprobs[i]).exp()
                        advantage = t.reward - mean
                        total = total - torch.min(ratio * advantage, ratio.clamp(0.8, 1.28) * advantage) / count
    total.backward()
    expected = torch.cat([p.grad.flatten() for p in made.parameters() if p.grad is not None])
    got, loss = gradient(model, batch)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-7)
    assert loss == pytest.approx(float(total.detach()), abs=1e-6)


@pytest.mark.parametrize("budget", [1, 150, 10**6])
@pytest.mark.parametrize("minibatches", [1, 2])
def test_what_the_policy_said_of_each_trained_token_is_told(
    model: PreTrainedModel, budget: int, minibatches: int
) -> None:
    batch, made = groups(), double(model)
    trained = learner(made, tokens_per_microbatch=budget, minibatches=minibatches, learning_rate=1e-12)
    result = trained.step(batch)
    episodes = [t for g in batch for t in g.trajectories]
    assert result.tokens.keys() == {t.key for t in episodes}
    for t in episodes:
        logprobs, entropies = [], []
        for s in t.sequences():
            log_p = made.causal_lm(torch.tensor([s.token_ids])).logits[0].log_softmax(-1).detach()
            places = [i for i, m in enumerate(s.loss_mask) if m]
            logprobs += [float(log_p[i - 1, s.token_ids[i]]) for i in places]
            entropies += [float(-(log_p[i - 1].exp() * log_p[i - 1]).sum()) for i in places]
        assert list(result.tokens[t.key].logprobs) == pytest.approx(logprobs, abs=1e-4)
        assert list(result.tokens[t.key].entropies) == pytest.approx(entropies, abs=1e-4)
    every = [value for tokens in result.tokens.values() for value in tokens.entropies]
    assert sum(every) / len(every) == pytest.approx(result.metrics["entropy"], rel=0.05)


def test_an_episode_has_one_advantage_whatever_its_rows(model: PreTrainedModel) -> None:
    batch = groups()
    assert max(len(t.sequences()) for t in batch[1].trajectories) > 1
    trained = learner(policy(model))
    by_episode = trained._advantages(batch)
    assert len(by_episode) == 8
    (rows,) = trained._minibatches(batch, by_episode, set(by_episode))
    assert len(rows) > 8
    assert len({(row.episode, row.advantage) for row in rows}) == len({row.episode for row in rows}) == 8
    for g in batch:
        assert sum(by_episode[t.key] for t in g.trajectories) == pytest.approx(0, abs=1e-6)
    result = trained.step(batch)
    assert result.advantages == by_episode
    assert result.metrics["trained_episodes"] == 8
    assert result.metrics["trained_tokens"] == sum(t.sampled_count for g in batch for t in g.trajectories)


def test_a_step_raises_what_was_good_and_lowers_what_was_bad(model: PreTrainedModel) -> None:
    made = policy(model, is_random=False)
    good_bad = group(1, [1.0, 0.0])
    trained = learner(made, learning_rate=3e-3, loss_type="reinforce")
    batches = [
        pack([Row(sequence=s, advantage=0.0, episode=0) for s in t.sequences()], token_budget=10**6)[0]
        for t in good_bad.trajectories
    ]
    before = [float(made.logprobs(b)[0].detach().sum()) for b in batches]
    for _ in range(5):
        result = trained.step([good_bad])
    after = [float(made.logprobs(b)[0].detach().sum()) for b in batches]
    assert after[0] > before[0]
    assert after[1] < before[1]
    assert all(math.isfinite(value) for value in result.metrics.values())


@pytest.mark.parametrize("batch", [[], [group(1, [0.5, 0.5, 0.5])]], ids=["nothing", "no signal"])
def test_a_step_without_signal_changes_nothing(model: PreTrainedModel, batch: list[Group]) -> None:
    made = policy(model)
    trained = learner(made, weight_decay=0.1)
    trained.step(groups())
    before, state = weights(made), trained.state()
    result = trained.step(batch)
    assert torch.equal(weights(made), before)
    assert (trained.steps, trained.skipped) == (2, 0)
    after = trained.state()
    assert state.tensors.keys() == after.tensors.keys() != set()
    assert all(torch.equal(after.tensors[name], value) for name, value in state.tensors.items())
    assert result.metrics["trained_tokens"] == 0
    assert "loss" not in result.metrics  # unknown, not zero
    assert result.metrics["filtered_zero_variance"] == sum(len(g.trajectories) for g in batch)


@pytest.mark.parametrize("how", ["gradient", "logprob"])
def test_a_gradient_that_is_not_finite_is_skipped_and_counted(model: PreTrainedModel, how: str) -> None:
    made = policy(model)
    trained, batch, before = learner(made), groups(), weights(made)
    if how == "gradient":
        hook = made.parameters()[0].register_hook(lambda g: g * math.inf)
        result = trained.step(batch)
        hook.remove()
    else:
        first = batch[0].trajectories[0]
        spans = tuple(replace(s, logprobs=(math.nan,) * len(s.token_ids)) if s.sampled else s for s in first.spans)
        broken = replace(batch[0], trajectories=(replace(first, spans=spans), *batch[0].trajectories[1:]))
        result = trained.step([broken, batch[1]])
    assert torch.equal(weights(made), before)
    assert (trained.skipped, result.metrics["skipped_steps"]) == (1, 1.0)
    assert not trained.optimizer.state_dict()["state"]
    assert all(p.grad is None for p in made.parameters())
    trained.step(batch)
    assert not torch.equal(weights(made), before)
    assert (trained.steps, trained.skipped) == (2, 1)


def test_what_a_limit_ended_is_in_the_baseline_and_not_in_the_loss(model: PreTrainedModel) -> None:
    batch = group(1, [1.0, 0.0, 0.0])
    cut = replace(batch.trajectories[1], stop_reason=StopReason.MAX_TOKENS)
    masked = replace(batch, trajectories=(batch.trajectories[0], cut, batch.trajectories[2]))
    result = learner(policy(model)).step([masked])
    assert result.advantages[cut.key] == pytest.approx(-1 / 3)
    assert [d.reason for d in result.decisions] == [None, FilterReason.TRUNCATED, None]
    assert result.metrics["trained_episodes"] == 2
    kept = learner(policy(model), mask_truncated=False).step([masked])
    assert kept.metrics["trained_episodes"] == 3


def test_an_engine_that_returned_nothing_trains_nothing(model: PreTrainedModel) -> None:
    batch = groups()
    first = batch[0].trajectories[1]
    empty = Span(parent=0, token_ids=(), sampled=True, logprobs=(), policy_version=0)
    spoilt = replace(first, spans=(*first.spans, empty))
    result = learner(policy(model)).step(
        [replace(batch[0], trajectories=(batch[0].trajectories[0], spoilt, *batch[0].trajectories[2:])), batch[1]]
    )
    assert result.metrics["trained_episodes"] == 8


@pytest.mark.parametrize(("minibatches", "optimizer_steps"), [(1, 1), (2, 2), (5, 2)])
def test_minibatches_are_optimizer_steps_over_whole_groups(
    model: PreTrainedModel, minibatches: int, optimizer_steps: int
) -> None:
    trained = learner(policy(model), minibatches=minibatches)
    batch = [groups()[0], group(7, [0.5, 0.5], task="flat"), groups()[1]]
    result = trained.step(batch)
    assert int(trained.optimizer.state_dict()["state"][0]["step"]) == optimizer_steps
    assert trained.steps == 1
    assert result.metrics["trained_episodes"] == 8
    assert result.metrics["zero_variance_groups"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("estimator", ["k2", "k3"])
def test_beta_adds_the_divergence_from_the_base_model(model: PreTrainedModel, estimator: str) -> None:
    flat, made = [group(1, [0.5, 0.5], forks=True)], double(model)
    trained = learner(made, beta=0.3, kl_estimator=estimator, drop_zero_variance=False, tokens_per_microbatch=100)
    rows = [
        Row(sequence=s, advantage=0.0, episode=i) for i, t in enumerate(flat[0].trajectories) for s in t.sequences()
    ]
    (batch,) = pack(rows, token_budget=10**6)
    with torch.no_grad():
        delta = made.reference_logprobs(batch) - made.logprobs(batch)[0]
    expected = {"k2": delta**2 / 2, "k3": delta.exp() - 1 - delta}[estimator].mean()
    before = weights(made)
    metrics = trained.step(flat).metrics
    assert metrics["loss"] == pytest.approx(0.3 * float(expected), rel=1e-5)
    assert metrics["reference_kl"] == pytest.approx(float(expected), rel=1e-5)
    assert not torch.equal(weights(made), before)


def test_a_restored_learner_goes_on_as_if_it_had_never_stopped(model: PreTrainedModel) -> None:
    made = policy(model)
    trained = learner(made, schedule="cosine", warmup_steps=2)
    trained.step(groups())
    state, adapter = trained.state(), weights(made)
    trained.step(groups())
    other = policy(model, seed=9)
    resumed = learner(other, schedule="cosine", warmup_steps=2)
    start = 0
    for parameter in other.parameters():
        end = start + parameter.numel()
        parameter.data = adapter[start:end].view_as(parameter).clone()
        start = end
    resumed.restore(state)
    assert resumed.steps == 1
    resumed.step(groups())
    assert torch.equal(weights(other), weights(made))
    assert resumed.state().steps == trained.state().steps == 2


def test_the_same_step_twice_gives_the_same_bytes(model: PreTrainedModel) -> None:
    made = [policy(model), policy(model)]
    for one in made:
        learner(one, minibatches=2).step(groups())
    assert made[0].adapter().sha256 == made[1].adapter().sha256


def test_the_learning_rate_follows_its_schedule_also_past_empty_steps(model: PreTrainedModel) -> None:
    trained = learner(policy(model), schedule="linear", learning_rate=1.0)
    rates = [trained.step([]).metrics["learning_rate"] for _ in range(3)]
    assert rates == pytest.approx([1.0, 0.9, 0.8])
