from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agentgrpo.engines import LOGPROB_STEP, round_logprob
from agentgrpo.engines.sampling import probabilities, sample, uniforms

LOGITS = [2.0, -1.0, 0.5, 0.5, 3.0, -4.0, 1.0, 0.0]
logits_lists = st.lists(st.integers(-128, 128).map(lambda x: x / 16), min_size=2, max_size=12)


def reference(logits: list[float], temperature: float, top_k: int, top_p: float) -> list[float]:
    """Probabilities as the papers write them, one list operation at a time."""
    scale = temperature if temperature > 0 else 1.0
    weights = [math.exp((x - max(logits)) / scale) for x in logits]
    order = sorted(range(len(logits)), key=lambda i: (-weights[i], i))
    if top_k:
        order = order[:top_k]
    kept: list[int] = []
    total, mass = sum(weights[i] for i in order), 0.0
    for i in order:
        if mass >= top_p and kept:
            break
        kept.append(i)
        mass += weights[i] / total
    total = sum(weights[i] for i in kept)
    return [weights[i] / total if i in kept else 0.0 for i in range(len(logits))]


def processed(logits: list[float], temperature: float, top_k: int, top_p: float) -> torch.Tensor:
    row = probabilities(
        torch.tensor([logits]), torch.tensor([temperature]), torch.tensor([top_k]), torch.tensor([top_p])
    )
    return row[0]


@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0, 2.0])
@pytest.mark.parametrize("top_k", [0, 1, 3, 100])
@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.5, 1e-6])
def test_probabilities_are_those_of_the_truncated_distribution(temperature: float, top_k: int, top_p: float) -> None:
    expected = reference(LOGITS, temperature, top_k, top_p)
    got = processed(LOGITS, temperature, top_k, top_p)
    assert got.tolist() == pytest.approx(expected, abs=1e-6)
    assert [bool(x) for x in got > 0] == [p > 0 for p in expected]


@given(logits_lists, st.sampled_from([0.5, 1.0, 1.7]), st.integers(0, 5), st.sampled_from([1.0, 0.8, 0.3]))
def test_truncation_keeps_a_distribution(logits: list[float], temperature: float, top_k: int, top_p: float) -> None:
    got = processed(logits, temperature, top_k, top_p)
    assert float(got.sum()) == pytest.approx(1.0, abs=1e-5)
    kept = int((got > 0).sum())
    assert 1 <= kept <= (top_k or len(logits))
    assert bool(got[int(torch.tensor(logits).argmax())] > 0)


def test_rows_with_different_settings_do_not_touch_each_other() -> None:
    settings = [(1.0, 0, 1.0), (0.5, 2, 1.0), (0.0, 0, 1.0), (2.0, 3, 0.7)]
    together = probabilities(
        torch.tensor([LOGITS] * 4),
        torch.tensor([t for t, _, _ in settings]),
        torch.tensor([k for _, k, _ in settings]),
        torch.tensor([p for _, _, p in settings]),
    )
    for row, (temperature, top_k, top_p) in zip(together, settings, strict=True):
        assert torch.equal(row, processed(LOGITS, temperature, top_k, top_p))


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), [(1.0, 0, 1.0), (0.7, 4, 1.0), (1.5, 0, 0.8)])
def test_draws_follow_the_distribution(temperature: float, top_k: int, top_p: float) -> None:
    count = 40_000
    expected = np.array(reference(LOGITS, temperature, top_k, top_p))
    shares = processed(LOGITS, temperature, top_k, top_p).expand(count, -1)
    draws = torch.from_numpy(uniforms(np.arange(count, dtype=np.uint64), np.zeros(count, dtype=np.uint64)))
    tokens, chosen = sample(shares, draws, torch.zeros(count, dtype=torch.bool))
    observed = np.bincount(tokens.numpy(), minlength=len(LOGITS))
    assert observed[expected == 0].sum() == 0
    inside = expected > 0
    chi_square = ((observed - count * expected)[inside] ** 2 / (count * expected[inside])).sum()
    assert chi_square < 25  # 7 degrees of freedom at most: beyond this in 1 of 1,400 runs, and the seeds are fixed
    assert torch.equal(chosen, shares[0][tokens].log())


def test_greedy_takes_the_likeliest_whatever_was_drawn() -> None:
    shares = probabilities(torch.tensor([LOGITS] * 2), torch.zeros(2), torch.zeros(2).long(), torch.ones(2))
    tokens, chosen = sample(shares, torch.tensor([0.0, 0.999]), torch.tensor([True, True]))
    assert tokens.tolist() == [4, 4]
    assert float(chosen[0]) == pytest.approx(float(torch.tensor(LOGITS).log_softmax(0)[4]))


@pytest.mark.parametrize("draw", [0.0, 0.5, 1.0 - 2.0**-53])
def test_a_token_of_no_probability_is_never_drawn(draw: float) -> None:
    """Also at the very ends of the unit interval, where rounding could step over the last token kept."""
    shares = processed([0.0, 5.0, 1.0, -30.0, 0.0], 1.0, 1, 1.0)[None]
    tokens, chosen = sample(shares, torch.tensor([draw], dtype=torch.float64), torch.tensor([False]))
    assert tokens.tolist() == [1]
    assert chosen.tolist() == [0.0]


@given(st.integers(1, 100), st.integers(0, 2**32), st.floats(0, 1, exclude_max=True))
def test_the_two_steps_invert_the_whole_distribution(size: int, seed: int, draw: float) -> None:
    generator = np.random.default_rng(seed)
    shares = generator.dirichlet(np.full(size, 0.1))
    shares[generator.random(size) < 0.5] = 0.0
    shares[generator.integers(size)] += 0.01
    row = torch.from_numpy(shares / shares.sum()).float()
    tokens, chosen = sample(row[None], torch.tensor([draw], dtype=torch.float64), torch.tensor([False]))
    ends = np.cumsum(row.double().numpy())
    token = int(tokens[0])
    assert row[token] > 0
    assert ends[token] - row[token] - 1e-6 <= draw * ends[-1] <= ends[token] + 1e-6
    assert float(chosen[0]) == pytest.approx(math.log(row[token]))


@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 10_000)), min_size=1, max_size=8))
def test_a_draw_is_a_function_of_its_seed_and_counter(pairs: list[tuple[int, int]]) -> None:
    seeds = np.array([s for s, _ in pairs], dtype=np.uint64)
    counters = np.array([c for _, c in pairs], dtype=np.uint64)
    together = uniforms(seeds, counters)
    assert ((together >= 0) & (together < 1)).all()
    alone = [uniforms(seeds[i : i + 1], counters[i : i + 1])[0] for i in range(len(pairs))]
    assert together.tolist() == alone


def test_draws_are_uniform_along_seeds_and_along_counters() -> None:
    count = 20_000
    many, one = np.arange(count, dtype=np.uint64), np.full(count, 7, dtype=np.uint64)
    for draws in (uniforms(many, one), uniforms(one, many)):
        observed = np.bincount((draws * 20).astype(int), minlength=20)
        assert ((observed - count / 20) ** 2 / (count / 20)).sum() < 50  # 19 degrees of freedom: 1 in 7,000
        assert abs(float(np.corrcoef(draws[:-1], draws[1:])[0, 1])) < 0.03


@given(st.floats(-50, 0))
def test_logprobs_are_rounded_to_the_nearest_step(value: float) -> None:
    rounded = round_logprob(value)
    assert abs(rounded - value) <= LOGPROB_STEP / 2
    assert rounded / LOGPROB_STEP == round(rounded / LOGPROB_STEP)
    assert np.float32(rounded) == rounded or abs(rounded) > 128  # exact in fp32, so learner and store read one value
