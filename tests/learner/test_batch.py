from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from hypothesis import given
from hypothesis import strategies as st

from agentgrpo.learner.batch import Microbatch, Row, collate, pack, shared_prefix, trained_count
from agentgrpo.types import Sequence as TokenSequence
from tests.learner.episodes import groups

Trained = tuple[int, tuple[int, ...], int, float, float, int]


def row(prefix: int, tail: Sequence[tuple[int, bool]], *, episode: int, advantage: float = 1.0) -> Row:
    """Return a row: `prefix` tokens all rows share, then (token, trained) pairs; the first of all is never trained."""
    tail = [(9, False), *tail, (8, True)]
    ids = [*range(prefix), *(token for token, _ in tail)]
    mask = [0] * prefix + [int(trained) for _, trained in tail]
    sequence = TokenSequence(
        token_ids=tuple(ids),
        loss_mask=tuple(mask),
        rollout_logprobs=tuple(-0.5 * t * m for t, m in enumerate(mask)),
        turns=tuple(t // 5 for t in range(len(ids))),
    )
    return Row(sequence=sequence, advantage=advantage, episode=episode)


tails = st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=12)


@st.composite
def steps(draw: st.DrawFn) -> list[Row]:
    prefix = draw(st.sampled_from([0, 3, 15, 16, 40]))
    made = []
    for episode in range(draw(st.integers(1, 6))):
        for _ in range(draw(st.integers(1, 3))):
            shared = prefix if draw(st.integers(0, 3)) else draw(st.integers(0, prefix))
            made.append(row(shared, draw(tails), episode=episode, advantage=episode - 1.5))
    return made


def wanted(rows: Sequence[Row]) -> Counter[Trained]:
    """Return every trained token with all that the learner needs to know of it."""
    found: Counter[Trained] = Counter()
    for r in rows:
        s = r.sequence
        for t, m in enumerate(s.loss_mask):
            if m:
                found[(r.episode, s.token_ids[:t], s.token_ids[t], s.rollout_logprobs[t], r.advantage, s.turns[t])] += 1
    return found


def given_to_learner(batches: Sequence[Microbatch]) -> Counter[Trained]:
    found: Counter[Trained] = Counter()
    for b in batches:
        for n in range(len(b.row_N)):
            suffix = b.suffix_ids[b.row_N[n], : b.column_N[n] + 1].tolist()
            before = (*b.prefix_ids.tolist(), *suffix)
            values = (b.behaviour_N[n], b.advantage_N[n], b.turn_N[n])
            logprob, advantage, turn = (v.item() for v in values)
            found[(int(b.episode_N[n]), before, int(b.target_N[n]), float(logprob), float(advantage), int(turn))] += 1
    return found


@given(steps(), st.sampled_from([1, 30, 120, 10**6]), st.booleans())
def test_every_trained_token_is_predicted_once_from_all_that_came_before(
    rows: list[Row], budget: int, is_shared: bool
) -> None:
    batches = pack(rows, token_budget=budget, share_prefix=is_shared)
    assert given_to_learner(batches) == wanted(rows)
    assert sum(len(b.target_N) for b in batches) == sum(map(trained_count, rows))


@given(steps(), st.sampled_from([1, 30, 120, 10**6]), st.booleans())
def test_the_budget_holds_and_episodes_stay_whole(rows: list[Row], budget: int, is_shared: bool) -> None:
    batches = pack(rows, token_budget=budget, share_prefix=is_shared)
    assert is_shared or not any(len(batch.prefix_ids) for batch in batches)
    homes: dict[int, set[int]] = {}
    for i, batch in enumerate(batches):
        episodes = set(batch.episode_N.tolist())
        assert batch.token_count <= budget or len(episodes) == 1
        for episode in episodes:
            homes.setdefault(episode, set()).add(i)
    assert all(len(home) == 1 for home in homes.values())
    again = pack(rows, token_budget=budget, share_prefix=is_shared)
    assert [b.suffix_ids.tolist() for b in again] == [b.suffix_ids.tolist() for b in batches]


@given(steps())
def test_a_shared_prefix_is_shared_long_enough_and_leaves_a_token_to_predict_from(rows: list[Row]) -> None:
    n = shared_prefix(rows)
    assert n == 0 or n >= 16
    assert len({r.sequence.token_ids[:n] for r in rows}) == 1
    assert all(r.sequence.loss_mask.index(1) > n for r in rows)


def test_a_group_computes_its_prompt_once() -> None:
    (group, _) = groups()
    rows = [Row(sequence=s, advantage=0.0, episode=i) for i, t in enumerate(group.trajectories) for s in t.sequences()]
    (batch,) = pack(rows, token_budget=10**6)
    longest = max(len(r.sequence.token_ids) for r in rows)
    assert len(batch.prefix_ids) == 39  # all of the prompt but the token that predicts the first sampled one
    assert batch.token_count == 39 + len(rows) * (longest - 39)


def test_a_batch_of_one_row_shares_nothing_and_moves_to_a_device() -> None:
    batch = collate([row(40, [], episode=0)]).to(torch.device("cpu"))
    assert len(batch.prefix_ids) == 0
    assert batch.suffix_ids.shape == (1, 42)
    assert batch.target_N.tolist() == [8]
