"""What a train step does where engine and learner disagree: the weights, the ratio's base, the alarm."""

from __future__ import annotations

import copy
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from agentgrpo.config.run import load_config
from agentgrpo.errors import ConfigError
from agentgrpo.learner.batch import Row, cut, pack
from agentgrpo.learner.policy import LoraPolicy
from agentgrpo.learner.ratio import truncated_weights
from agentgrpo.types import Group, Trajectory
from agentgrpo.types import Sequence as TokenSequence
from tests.learner.episodes import group, groups, learner, policy, weights

LEARNER = {"old_logprobs": "learner"}


def double(model: PreTrainedModel) -> LoraPolicy:
    made = policy(copy.deepcopy(model).double())
    made.model.double()
    return made


def plain_logprobs(made: LoraPolicy, sequence: TokenSequence) -> torch.Tensor:
    """Return logprobs of the trained tokens by a plain forward pass over one row."""
    log_p = made.causal_lm(torch.tensor([sequence.token_ids])).logits[0].log_softmax(-1)
    return torch.stack([log_p[i - 1, sequence.token_ids[i]] for i, m in enumerate(sequence.loss_mask) if m])


def by_engine(sequence: TokenSequence) -> torch.Tensor:
    pairs = zip(sequence.rollout_logprobs, sequence.loss_mask, strict=True)
    return torch.tensor([logprob for logprob, m in pairs if m], dtype=torch.float64)


def as_sampled_by(made: LoraPolicy, batch: Sequence[Group], *, off_by: float = 0.0) -> list[Group]:
    """Return the groups with the learner's own logprobs as the engine's, but for a constant."""

    def own(trajectory: Trajectory) -> Trajectory:
        path: dict[int, list[int]] = {-1: []}
        spans = []
        for index, span in enumerate(trajectory.spans):
            ids = path[index] = [*path[span.parent], *span.token_ids]
            if span.sampled and span.token_ids:
                start = len(ids) - len(span.token_ids)
                with torch.no_grad():
                    log_p = made.causal_lm(torch.tensor([ids])).logits[0].log_softmax(-1)
                own_ones = [float(log_p[i - 1, ids[i]]) - off_by for i in range(start, len(ids))]
                span = replace(span, logprobs=tuple(own_ones))
            spans.append(span)
        return replace(trajectory, spans=tuple(spans))

    return [replace(g, trajectories=tuple(own(t) for t in g.trajectories)) for g in batch]


def step_by_hand(made: LoraPolicy, batch: Sequence[Group], old: Sequence[torch.Tensor]) -> None:
    """One plain gradient step of token-mean clipped policy gradient, each token weighted by min(old / engine, 2)."""
    rows = [
        (s, t.reward - sum(g.rewards) / len(g.rewards))
        for g in batch
        for t in g.trajectories
        for s in t.sequences()
        if t.reward is not None
    ]
    count = sum(sum(s.loss_mask) for s, _ in rows)
    total = torch.zeros((), dtype=torch.float64)
    for (sequence, advantage), before in zip(rows, old, strict=True):
        ratio = (plain_logprobs(made, sequence) - before).exp()
        weight = (before - by_engine(sequence)).exp().clamp(max=2.0)
        surrogate = torch.min(ratio * advantage, ratio.clamp(0.8, 1.28) * advantage)
        total = total - (weight * surrogate).sum() / count
    made.model.zero_grad()
    total.backward()
    with torch.no_grad():
        for parameter in made.parameters():
            assert parameter.grad is not None
            parameter.sub_(parameter.grad)


def test_the_clip_is_against_the_policy_before_all_updates_of_the_step(model: PreTrainedModel) -> None:
    """Two optimizer steps, written out: the second one's ratio is against logprobs from before the first."""
    batch = groups()
    by_hand = double(model)
    with torch.no_grad():
        old = [[plain_logprobs(by_hand, s) for t in g.trajectories for s in t.sequences()] for g in batch]
    for one, its_old in zip(batch, old, strict=True):
        step_by_hand(by_hand, [one], its_old)
    made = double(model)
    trained = learner(made, learning_rate=1.0, max_grad_norm=1e9, minibatches=2, **LEARNER)
    trained.optimizer = torch.optim.SGD(made.parameters(), lr=1.0)  # type: ignore[assignment]
    start = weights(made)
    trained.step(batch)
    assert float((weights(made) - start).abs().max()) > 1e-4
    torch.testing.assert_close(weights(made), weights(by_hand), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"])
def test_where_engine_and_learner_agree_the_step_is_the_same(model: PreTrainedModel, kind: str) -> None:
    batch = as_sampled_by(double(model), groups())
    made = [double(model), double(model)]
    learner(made[0]).step(batch)
    metrics = learner(made[1], truncation=kind, truncation_floor=0.5, **LEARNER).step(batch).metrics
    torch.testing.assert_close(weights(made[1]), weights(made[0]), rtol=0, atol=1e-6)
    assert metrics["truncated_fraction"] == metrics["clip_fraction"] == 0.0
    assert metrics["mismatch_kl"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("kind", ["token_mask", "sequence_mask"])
def test_what_is_masked_trains_nothing(model: PreTrainedModel, kind: str) -> None:
    batch = as_sampled_by(double(model), groups(), off_by=1.0)  # every learner / engine is e
    made = double(model)
    before = weights(made)
    result = learner(made, truncation=kind, **LEARNER).step(batch)
    assert torch.equal(weights(made), before)
    assert result.metrics["truncated_fraction"] == 1.0


def test_the_old_logprobs_are_those_of_each_rows_own_tokens(model: PreTrainedModel) -> None:
    made = double(model)
    trained = learner(made, tokens_per_microbatch=150, **LEARNER)
    advantages = {t.key: 1.0 for g in groups() for t in g.trajectories}
    (rows,) = trained._minibatches(groups(), advantages, set(advantages))
    with torch.no_grad():
        for row in trained._with_old_logprobs(rows, threading.Event()):
            expected = plain_logprobs(made, row.sequence)
            assert row.old_logprobs is not None
            got = [v for v, m in zip(row.old_logprobs, row.sequence.loss_mask, strict=True) if m]
            torch.testing.assert_close(torch.tensor(got, dtype=torch.float64), expected, rtol=0, atol=1e-5)


def test_a_microbatch_carries_both_kinds_of_logprobs() -> None:
    sequences = [s for t in group(1, [1.0, 0.0]).trajectories for s in t.sequences()]
    rows = [Row(sequence=s, advantage=1.0, episode=i) for i, s in enumerate(sequences)]
    (plain,) = pack(rows, token_budget=10**6)
    assert torch.equal(plain.old_N, plain.behaviour_N)
    known = [replace(row, old_logprobs=(-3.0,) * len(row.sequence.token_ids)) for row in rows]
    (batch,) = pack(known, token_budget=10**6)
    assert torch.equal(batch.behaviour_N, plain.behaviour_N)
    assert batch.old_N.unique().tolist() == [-3.0]
    assert sum(map(len, cut(rows, token_budget=1))) == len(rows)
    assert truncated_weights(batch.old_N, batch.behaviour_N, batch.episode_N)[0].max() <= 2.0


def test_dropout_is_off_while_the_old_logprobs_are_made(model: PreTrainedModel) -> None:
    made = policy(model, dropout=0.5)
    rows = [Row(sequence=s, advantage=0.0, episode=0) for s in group(1, [1.0]).trajectories[0].sequences()]
    (batch,) = pack(rows, token_budget=10**6)
    assert torch.equal(made.frozen_logprobs(batch), made.frozen_logprobs(batch))
    assert not torch.equal(made.logprobs(batch)[0], made.logprobs(batch)[0])


def test_the_alarm_counts_every_step_and_speaks_now_and_then(model: PreTrainedModel) -> None:
    made = policy(model)
    far = learner(made, learning_rate=1e-6)
    notes = [far.step(groups()).note for _ in range(12)]
    assert [n for n, note in enumerate(notes, 1) if note and "k3 KL" in note] == [1, 11]
    assert "expected at most 0.01" in str(notes[0])
    assert far.mismatch_alarms == far.state().mismatch_alarms == 12
    resumed = learner(policy(model))
    resumed.restore(far.state())
    assert resumed.step(groups()).metrics["mismatch_alarms"] == 13


@pytest.mark.parametrize("config", [{}, LEARNER])
def test_no_alarm_where_the_two_agree(model: PreTrainedModel, config: dict[str, Any]) -> None:
    """Nor when the policy moves far within a step: that is not the engine's doing."""
    made = policy(model)
    batch = as_sampled_by(made, groups())
    result = learner(made, minibatches=2, learning_rate=0.1, **config).step(batch)
    assert (result.note, result.metrics["mismatch_alarms"]) == (None, 0.0)
    assert result.metrics["mismatch_kl"] < 1e-6 < result.metrics["kl"]


@pytest.mark.parametrize("key", ['truncation="token_mask"', "truncation_cap=3", "truncation_floor=0.5"])
def test_a_truncation_of_the_engines_own_ratio_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=r"has no effect with old_logprobs = .engine.: .* count that twice"):
        load_config({}, overrides=[f"learner.{key}"])
    loaded = load_config({"learner": LEARNER}, overrides=[f"learner.{key}"])
    assert load_config(loaded).learner == loaded.learner


def test_a_floor_above_the_cap_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"truncation_floor = 3 is above truncation_cap = 2"):
        load_config({"learner": {**LEARNER, "truncation_floor": 3.0}})


def test_the_resolved_config_leaves_the_truncation_out_where_it_has_no_effect() -> None:
    assert "truncation" not in load_config({}).to_toml()
    assert 'truncation = "token_truncate"' in load_config({"learner": LEARNER}).to_toml()


def test_the_sample_size_does_not_depend_on_how_a_step_is_cut_up(model: PreTrainedModel) -> None:
    sizes = [
        learner(double(model), tokens_per_microbatch=budget).step(groups()).metrics["effective_sample_size"]
        for budget in (1, 150, 10**6)
    ]
    assert 0 < sizes[0] < 1
    assert sizes == pytest.approx([sizes[0]] * 3, rel=1e-6)
