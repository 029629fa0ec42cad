from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers.models.qwen3.modeling_qwen3 import apply_rotary_pos_emb

from agentgrpo.engines import kernel
from agentgrpo.engines.kernel import BLOCK, Floats, Ints

SLOTS, MOST = 3, 4


class Sequences:
    """Some sequences in a cache of random numbers whose blocks lie in random order, and queries at their ends."""

    def __init__(self, seed: int, lengths: list[int], kv_heads: int, groups: int, width: int) -> None:
        draw = np.random.default_rng(seed)
        self.lengths, self.scale, self.groups = lengths, width**-0.5, groups
        self.table = draw.permutation(SLOTS * MOST).reshape(SLOTS, MOST)
        self.keys = draw.standard_normal((SLOTS * MOST, kv_heads, width, BLOCK), np.float32)
        self.values = draw.standard_normal((SLOTS * MOST, kv_heads, BLOCK, width), np.float32)
        self.queries = [draw.standard_normal((n, kv_heads * groups, width), np.float32) for n in lengths]

    def attend(self, runs: list[tuple[int, int, int]]) -> list[Floats]:
        """Attend with runs of queries (slot, first position, count), all in one call."""
        q = np.concatenate([self.queries[slot][first : first + count] for slot, first, count in runs])
        ends = np.cumsum([count for *_, count in runs])
        rows = [(e - c, c, slot, first) for e, (slot, first, c) in zip(ends, runs, strict=True)]
        out = np.zeros_like(q)
        kernel.attend(self.table, np.array(rows), q, self.scale, self.keys, self.values, out)
        return np.split(out, ends[:-1])

    def expected(self, slot: int, position: int) -> NDArray[np.float64]:
        """Return what a query gets, [H, D], by the definition."""
        blocks = self.table[slot]
        keys = self.keys[blocks].transpose(1, 0, 3, 2).reshape(self.keys.shape[1], -1, self.keys.shape[2])
        values = self.values[blocks].transpose(1, 0, 2, 3).reshape(keys.shape)
        keys, values = (np.repeat(a[:, : position + 1], self.groups, 0).astype(np.float64) for a in (keys, values))
        scores = np.einsum("hd,hnd->hn", self.queries[slot][position], keys) * self.scale
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        result: NDArray[np.float64] = np.einsum("hn,hnd->hd", weights / weights.sum(-1, keepdims=True), values)
        return result


sequences = st.builds(
    Sequences,
    seed=st.integers(0, 2**32),
    lengths=st.lists(st.integers(1, MOST * BLOCK), min_size=SLOTS, max_size=SLOTS),
    kv_heads=st.integers(1, 3),
    groups=st.integers(1, 3),
    width=st.sampled_from([4, 8, 20, 24, 64]),
)


@given(sequences)
def test_a_query_attends_to_its_own_sequence_up_to_its_position(s: Sequences) -> None:
    found = s.attend([(slot, 0, n) for slot, n in enumerate(s.lengths)])
    for slot, n in enumerate(s.lengths):
        for position in {0, n // 2, n - 1}:
            np.testing.assert_allclose(found[slot][position], s.expected(slot, position), atol=2e-5)


@given(sequences, st.integers(1, 40))
def test_it_gets_the_same_bits_alone_and_in_pieces_of_any_size(s: Sequences, piece: int) -> None:
    whole = s.attend([(slot, 0, n) for slot, n in enumerate(s.lengths)])
    for slot, n in enumerate(s.lengths):
        pieces = s.attend([(slot, first, min(piece, n - first)) for first in range(0, n, piece)])
        assert (np.concatenate(pieces) == whole[slot]).all()
        assert (s.attend([(slot, n - 1, 1)])[0] == whole[slot][-1:]).all()


@given(sequences, st.sampled_from([np.nan, np.inf, -np.inf]))
def test_numbers_that_are_none_reach_whoever_asked_and_nobody_else(s: Sequences, bad: float) -> None:
    runs = [(slot, n - 1, 1) for slot, n in enumerate(s.lengths)]
    clean = s.attend(runs)
    s.queries[0][-1, 0] = bad
    spoiled = s.attend(runs)
    assert np.isnan(spoiled[0][0, 0]).any()
    assert all((a == b).all() for a, b in zip(clean[1:], spoiled[1:], strict=True))


def test_large_scores_do_not_overflow() -> None:
    s = Sequences(0, [100, 1, 1], 1, 1, 8)
    s.queries[0] *= 1e4
    (found,) = s.attend([(0, 99, 1)])
    np.testing.assert_allclose(found[0], s.expected(0, 99), atol=1e-3)


@given(st.lists(st.integers(0, SLOTS * MOST * BLOCK - 1), min_size=1, max_size=40, unique=True))
def test_what_is_stored_lies_at_its_slot_and_position(places: list[int]) -> None:
    s = Sequences(1, [1] * SLOTS, 2, 1, 8)
    spots: Ints = np.array(places)
    slots, positions = spots // (MOST * BLOCK), spots % (MOST * BLOCK)
    k, v = (np.random.default_rng(n).standard_normal((len(places), 2, 8), np.float32) for n in (2, 3))
    kernel.store(s.table, slots, positions, k, v, s.keys, s.values)
    blocks = s.table[slots, positions // BLOCK]
    assert (s.keys[blocks, :, :, positions % BLOCK] == k).all()
    assert (s.values[blocks, :, positions % BLOCK] == v).all()


@given(st.integers(0, 2**32), st.integers(1, 5), st.sampled_from([3, 8, 24, 96]))
def test_rms_norm_is_torchs(seed: int, count: int, width: int) -> None:
    draw = np.random.default_rng(seed)
    rows, weight = draw.standard_normal((count, width), np.float32), draw.standard_normal(width, np.float32)
    out = np.empty_like(rows)
    kernel.rms_norm(rows, weight, 1e-6, out)
    expected = torch.nn.functional.rms_norm(torch.from_numpy(rows), (width,), torch.from_numpy(weight), 1e-6)
    np.testing.assert_allclose(out, expected.numpy(), rtol=1e-5, atol=1e-6)


@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(1, 3), st.sampled_from([2, 8, 24]), st.booleans())
def test_heads_are_normed_and_turned_as_transformers_does(
    seed: int, count: int, heads: int, width: int, is_normed: bool
) -> None:
    draw = np.random.default_rng(seed)
    states = draw.standard_normal((count, heads, width), np.float32)
    angles = np.tile(draw.standard_normal((count, width // 2), np.float32), 2)
    weight = draw.standard_normal(width if is_normed else 0, np.float32)
    expected = torch.from_numpy(states.copy())
    if is_normed:
        expected = torch.nn.functional.rms_norm(expected, (width,), torch.from_numpy(weight), 1e-6)
    cos, sin = np.cos(angles), np.sin(angles)
    turned, _ = apply_rotary_pos_emb(expected, expected, torch.from_numpy(cos), torch.from_numpy(sin), unsqueeze_dim=1)
    kernel.turn(states, weight, 1e-6, cos, sin)
    np.testing.assert_allclose(states, turned.numpy(), rtol=1e-5, atol=1e-5)
