from __future__ import annotations

import copy

import pytest
import torch
from transformers import PreTrainedModel

from agentgrpo.learner.batch import Row, collate
from agentgrpo.learner.forward import suffix_hidden, trained_logprobs
from tests.learner.episodes import groups


@pytest.fixture(scope="module")
def double(model: PreTrainedModel) -> PreTrainedModel:
    return copy.deepcopy(model).double()


def rows(which: int) -> list[Row]:
    trajectories = groups()[which].trajectories
    return [Row(sequence=s, advantage=0.0, episode=i) for i, t in enumerate(trajectories) for s in t.sequences()]


@torch.no_grad()
def plain(model: PreTrainedModel, made: list[Row], temperature: float) -> list[float]:
    """Return what one ordinary forward pass per row gives."""
    logprobs = []
    for row in made:
        ids = torch.tensor([row.sequence.token_ids])
        log_p = (model(ids).logits[0] / temperature).log_softmax(-1)
        logprobs += [float(log_p[t - 1, ids[0, t]]) for t, m in enumerate(row.sequence.loss_mask) if m]
    return logprobs


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("share_prefix", [True, False])
@pytest.mark.parametrize("which", [0, 1], ids=["turns", "forks"])
def test_logprobs_are_those_of_whole_sequences(
    double: PreTrainedModel, which: int, share_prefix: bool, temperature: float
) -> None:
    batch = collate(rows(which))
    assert len(batch.prefix_ids) > 0
    got, entropy = trained_logprobs(double, batch, temperature=temperature, share_prefix=share_prefix)
    assert got.tolist() == pytest.approx(plain(double, rows(which), temperature), abs=1e-9)
    assert bool((entropy > 0).all())
    assert not entropy.requires_grad


def test_hidden_states_do_not_depend_on_who_shares_the_batch(double: PreTrainedModel) -> None:
    made = rows(0)
    together = collate(made)
    start = len(together.prefix_ids)
    hidden = suffix_hidden(double, together)
    for b, row in enumerate(made):
        alone = suffix_hidden(double, collate([row]))[0, start:]
        torch.testing.assert_close(hidden[b, : len(alone)], alone, rtol=0, atol=1e-9)
