"""Denominators: closed forms, and independence from how a step is split."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agentgrpo.learner.aggregation import Aggregation, gradient_scale, token_weights

KINDS: tuple[Aggregation, ...] = ("token_mean", "sequence_mean", "constant")


def weights_of(episodes: torch.Tensor, lengths: list[int], kind: Aggregation, max_tokens: int = 16) -> torch.Tensor:
    return token_weights(
        episodes,
        kind=kind,
        total_tokens=sum(lengths),
        total_episodes=len(lengths),
        tokens_per_episode=torch.tensor(lengths),
        max_tokens=max_tokens,
    )


def flat(lengths: list[int]) -> torch.Tensor:
    return torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))


def test_closed_forms_of_uneven_episodes() -> None:
    losses, lengths = torch.tensor([1.0, 2.0, 3.0, 10.0]), [3, 1]
    sums = {kind: float((weights_of(flat(lengths), lengths, kind) * losses).sum()) for kind in KINDS}
    assert sums == pytest.approx({"token_mean": 16 / 4, "sequence_mean": (2 + 10) / 2, "constant": 16 / (2 * 16)})


def test_equal_lengths_make_all_three_the_same_up_to_the_constant() -> None:
    lengths = [4, 4, 4]
    token, sequence, constant = (weights_of(flat(lengths), lengths, kind) for kind in KINDS)
    torch.testing.assert_close(token, sequence)
    torch.testing.assert_close(token, constant * 16 / 4)


@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=8))
def test_the_two_means_are_means(lengths: list[int]) -> None:
    for kind in KINDS[:2]:
        assert float(weights_of(flat(lengths), lengths, kind).double().sum()) == pytest.approx(1.0, abs=1e-5)


@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=6), data=st.data())
@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_weights_do_not_depend_on_the_split(
    kind: Aggregation, lengths: list[int], data: st.DataObject
) -> None:
    """Any partition of the step's tokens, in any order, even through the middle of an episode."""
    episodes, total = flat(lengths), sum(lengths)
    bins = data.draw(st.lists(st.integers(0, 3), min_size=total, max_size=total))
    losses = torch.linspace(-1, 2, total)
    whole = weights_of(episodes, lengths, kind)
    split_loss = torch.zeros(())
    for i in range(4):
        mine = torch.tensor([b == i for b in bins])
        part = weights_of(episodes[mine], lengths, kind)
        assert torch.equal(part, whole[mine])
        split_loss += (part * losses[mine]).sum()
    torch.testing.assert_close(split_loss, (whole * losses).sum(), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_an_episode_weighs_the_same_in_one_fork_or_several(kind: Aggregation) -> None:
    """Rows of one episode share its index: the sum of its weights depends on its tokens alone."""
    lengths = [6, 2]
    one_row = weights_of(torch.tensor([0] * 6), lengths, kind).sum()
    forks = (
        weights_of(torch.tensor([0] * 4), lengths, kind).sum() + weights_of(torch.tensor([0] * 2), lengths, kind).sum()
    )
    torch.testing.assert_close(forks, one_row)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "constant", "max_tokens": None}, "max_tokens is None, expected at least 1"),
        ({"kind": "constant", "max_tokens": 0}, "max_tokens is 0"),
        ({"kind": "token_mean", "total_tokens": 0}, "total_tokens is 0"),
        ({"kind": "sequence_mean", "total_episodes": 0}, "total_episodes is 0"),
    ],
)
def test_a_missing_denominator_says_which(changes: dict[str, object], message: str) -> None:
    arguments = {"total_tokens": 1, "total_episodes": 1, "tokens_per_episode": torch.tensor([1])} | changes
    with pytest.raises(ValueError, match=message):
        token_weights(torch.tensor([0]), **arguments)  # type: ignore[arg-type]


def test_only_float16_needs_its_gradients_scaled_and_by_a_power_of_two() -> None:
    assert [gradient_scale(torch.float16, n) for n in (1, 2, 100_000)] == [1.0, 2.0, 65536.0]
    assert {gradient_scale(dtype, 100_000) for dtype in (torch.float32, torch.bfloat16, torch.float64)} == {1.0}
