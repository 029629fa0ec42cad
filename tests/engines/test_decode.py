from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from agentgrpo.engines import versions
from agentgrpo.engines.attention import Ints
from agentgrpo.engines.drafts import CONTEXT, MOST, Drafts
from agentgrpo.engines.requests import Request, common_length
from agentgrpo.engines.sampling import probabilities
from agentgrpo.errors import EngineFailure
from agentgrpo.types import Generation, Policy, Sampling
from tests.engines.decoding import VOCABULARY, bench, prompt_of
from tests.engines.models import greedy, logprobs_of, merged, random_adapter

requests = st.lists(
    st.tuples(
        st.integers(1, 60),  # prompt length
        st.integers(1, 12),  # max_tokens
        st.sampled_from([0.0, 0.7, 1.0]),
        st.sampled_from([0, 20]),
        st.sampled_from([1.0, 0.9]),
        st.sampled_from([0, 1]),  # version
        st.integers(0, 4),  # steps before it joins
        st.booleans(),  # begins with the prefix many share
    ),
    min_size=1,
    max_size=8,
)


def test_greedy_is_the_likeliest_token_each_time(model: PreTrainedModel) -> None:
    for seed, length in ((1, 1), (2, 17), (3, 60)):
        prompt = prompt_of(seed, length)
        got = bench(model).generate(prompt, Sampling(max_tokens=20, temperature=0))
        assert list(got.token_ids) == greedy(model, prompt, 20)
        assert got.logprobs == pytest.approx(logprobs_of(model, prompt, got.token_ids), abs=1e-4)
        assert got.finish_reason == "length"


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), [(1.0, 0, 1.0), (0.7, 5, 1.0), (1.3, 0, 0.6)])
def test_logprobs_are_those_of_the_distribution_sampled_from(
    model: PreTrainedModel, temperature: float, top_k: int, top_p: float
) -> None:
    prompt = prompt_of(4, 30)
    sampling = Sampling(max_tokens=15, seed=3, temperature=temperature, top_k=top_k, top_p=top_p)
    got = bench(model).generate(prompt, sampling)
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *got.token_ids]])).logits[0, len(prompt) - 1 : -1]
    n = len(logits)
    expected = (
        probabilities(logits, torch.full((n,), temperature), torch.full((n,), top_k), torch.full((n,), top_p))
        .log()
        .gather(1, torch.tensor(got.token_ids)[:, None])
    )
    assert got.logprobs == pytest.approx(expected[:, 0].tolist(), abs=1e-4)
    assert all(x * 2**16 == round(x * 2**16) for x in got.logprobs)


def test_first_tokens_over_many_seeds_follow_the_model(model: PreTrainedModel) -> None:
    prompt = prompt_of(5, 12)
    with torch.no_grad():
        p = (model(torch.tensor([prompt])).logits[0, -1] / 0.5).softmax(-1).numpy()
    made, count = bench(model, slots=64), 3000
    numbers = [made.request(prompt, Sampling(max_tokens=1, seed=s, temperature=0.5))[0] for s in range(count)]
    made.run()
    ended = [made.ended[n] for n in numbers]
    observed = np.bincount([g.token_ids[0] for g in ended if isinstance(g, Generation)], minlength=VOCABULARY)
    assert observed.sum() == count
    often = p * count >= 5
    cells = [*zip(observed[often], p[often] * count, strict=True), (observed[~often].sum(), p[~often].sum() * count)]
    chi_square = sum((o - e) ** 2 / e for o, e in cells if e > 0)
    degrees = len(cells) - 1
    assert chi_square < degrees + 4 * (2 * degrees) ** 0.5 + 10


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=requests, slots=st.sampled_from([2, 8]), prefill=st.sampled_from([1, 8192]))
def test_a_request_gets_the_same_tokens_alone_and_among_others(
    model: PreTrainedModel, plan: list[tuple[int, int, float, int, float, int, int, bool]], slots: int, prefill: int
) -> None:
    """Whoever joins or leaves at whatever token, under whichever policy: seeded draws and logprobs stay."""
    made, adapter = bench(model, slots=slots, prefill=prefill), random_adapter(model, 1)
    made.loop.versions.add(Policy(version=1), adapter)
    waiting = []
    for i, (length, max_tokens, temperature, top_k, top_p, version, delay, shares) in enumerate(plan):
        prompt = [*(prompt_of(99, 40) if shares else []), *prompt_of(i, length)]
        sampling = Sampling(max_tokens=max_tokens, seed=i, temperature=temperature, top_k=top_k, top_p=top_p)
        waiting.append((delay, prompt, sampling, Policy(version=version)))
    numbers: dict[int, int] = {}
    for clock in range(5):
        for i, (delay, prompt, sampling, policy) in enumerate(waiting):
            if delay == clock:
                numbers[i] = len(numbers)
                request = Request(
                    prompt_ids=tuple(prompt),
                    sampling=sampling,
                    policy=policy,
                    session="",
                    on_end=lambda result, i=i: made.ended.update({i: result}),  # type: ignore[misc]
                )
                made.loop.add(request)
        made.loop.step()
    made.run()
    for i, (_, prompt, sampling, policy) in enumerate(waiting):
        alone = bench(model)
        alone.loop.versions.add(Policy(version=1), adapter)
        expected, got = alone.generate(prompt, sampling, policy), made.ended[i]
        assert isinstance(got, Generation)
        assert got == expected  # to the last bit


@pytest.mark.parametrize("count", [40, pytest.param(1000, marks=pytest.mark.slow)])
def test_requests_get_the_same_bits_alone_and_together(model: PreTrainedModel, count: int) -> None:
    draw = np.random.default_rng(0)
    jobs = []
    for i in range(count):
        prompt = [*(prompt_of(99, 80) if i % 2 else []), *prompt_of(i, int(draw.integers(1, 90)))]
        jobs.append(
            (prompt, Sampling(max_tokens=int(draw.integers(1, 40)), seed=i, temperature=(1.0, 0.7, 0.0)[i % 3]))
        )
    made = bench(model, slots=32, prefill=100)
    numbers = [made.request(prompt, sampling)[0] for prompt, sampling in jobs]
    made.run()
    alone = bench(model, slots=3)
    for number, (prompt, sampling) in zip(numbers, jobs, strict=True):
        assert made.ended[number] == alone.generate(prompt, sampling)


@pytest.mark.parametrize("right", [0.0, 0.6, 1.0])
def test_guesses_change_the_speed_never_the_tokens(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, right: float
) -> None:
    jobs = [(prompt_of(i, 20 + i), Sampling(max_tokens=30, seed=i)) for i in range(6)]
    expected = [bench(model).generate(prompt, sampling) for prompt, sampling in jobs]
    stop = expected[0].token_ids[17]  # reached in the middle of what is guessed
    jobs[0] = (jobs[0][0], replace(jobs[0][1], stop_token_ids=(stop,)))
    expected[0] = bench(model).generate(*jobs[0])
    follows = {
        tuple([*prompt, *got.token_ids][len(prompt) + i - CONTEXT : len(prompt) + i]): got.token_ids[i : i + MOST]
        for (prompt, _), got in zip(jobs, expected, strict=True)
        for i in range(len(got.token_ids))
    }
    draw = np.random.default_rng(0)

    def oracle(self: Drafts, contexts: Ints, most: int) -> Ints:
        guesses = np.full((len(contexts), most), -1)
        for row, context in zip(guesses, contexts.tolist(), strict=True):
            known = np.array(follows.get(tuple(context), (3, 1, 4)))
            row[: len(known)] = np.where(draw.random(len(known)) < right, known, (known + 1) % VOCABULARY)
        return guesses

    monkeypatch.setattr(Drafts, "guess", oracle)
    monkeypatch.setattr(Drafts, "is_sure", property(lambda self: True, lambda self, value: None), raising=False)
    made = bench(model)
    numbers = [made.request(*job)[0] for job in jobs]
    made.run()
    assert [made.ended[n] for n in numbers] == expected
    assert len(made.fed) == {0.0: 30, 1.0: 5}.get(right, len(made.fed))  # a pass samples up to 8 tokens
    assert len(made.fed) <= 30


def test_another_seed_gives_other_tokens(model: PreTrainedModel) -> None:
    made = bench(model)
    drawn = {made.generate(prompt_of(1, 9), Sampling(max_tokens=8, seed=s)).token_ids for s in (0, 1, 2, 2**63 - 1)}
    assert len(drawn) == 4


def test_a_stop_token_ends_a_generation_and_belongs_to_it(model: PreTrainedModel) -> None:
    prompt = prompt_of(7, 11)
    free = bench(model).generate(prompt, Sampling(max_tokens=10, seed=5))
    stop = free.token_ids[4]
    first = free.token_ids.index(stop)
    got = bench(model).generate(prompt, Sampling(max_tokens=10, seed=5, stop_token_ids=(stop,)))
    assert got == Generation(
        token_ids=free.token_ids[: first + 1], logprobs=free.logprobs[: first + 1], finish_reason="stop"
    )


def test_a_context_that_is_full_ends_a_generation(model: PreTrainedModel) -> None:
    got = bench(model, context=20).generate(prompt_of(1, 15), Sampling(max_tokens=50))
    assert len(got.token_ids) == 5
    assert got.finish_reason == "length"


@pytest.mark.parametrize("length", [0, 20, 21])
def test_a_prompt_that_does_not_fit_is_refused(model: PreTrainedModel, length: int) -> None:
    made = bench(model, context=20)
    number, _ = made.request(prompt_of(1, length), Sampling(max_tokens=5))
    assert "does not fit a context of 20" in str(made.ended[number])
    assert not made.loop.has_work


def test_an_unpublished_policy_is_refused(model: PreTrainedModel) -> None:
    made = bench(model)
    number, _ = made.request([1, 2], Sampling(max_tokens=1), Policy(version=5))
    assert "policy-v5 is not published" in str(made.ended[number])


def test_retiring_a_policy_ends_its_generations_and_no_others(model: PreTrainedModel) -> None:
    made = bench(model, slots=2)
    made.loop.versions.add(Policy(version=1), random_adapter(model, 1))
    kept, _ = made.request(prompt_of(1, 20), Sampling(max_tokens=6, seed=1))
    running, _ = made.request(prompt_of(1, 20), Sampling(max_tokens=6), Policy(version=1), "s")
    made.loop.step()
    queued, _ = made.request(prompt_of(1, 20), Sampling(max_tokens=6), Policy(version=1))
    made.loop.retire(Policy(version=1))
    made.run()
    for number in (running, queued):
        assert "policy-v1 was retired" in str(made.ended[number])
    assert isinstance(made.ended[kept], Generation)


@pytest.mark.parametrize("at", [1, 2, 4], ids=["shared prefix", "prefill", "decode"])
def test_a_broken_pass_fails_everyone_and_leaves_nothing_behind(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Also no trust in the cache: what a broken pass should have written was never written."""
    made = bench(model, slots=3)
    one_pass, calls = made.loop._pass, 0

    def breaking(*args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == at:
            raise RuntimeError("out of memory")
        one_pass(*args)

    monkeypatch.setattr(made.loop, "_pass", breaking)
    prompts = [[*prompt_of(1, 30), *prompt_of(i, 5)] for i in range(5)]
    numbers = [made.request(p, Sampling(max_tokens=9, seed=1), session=str(i))[0] for i, p in enumerate(prompts)]
    with pytest.raises(RuntimeError):
        made.run()
    made.loop.fail_all(EngineFailure("broken"))
    for tensor in (*made.loop.cache.keys, *made.loop.cache.values):
        tensor.fill_(9.0)  # whatever is there now
    assert [str(made.ended[n]) for n in numbers] == ["broken"] * 5
    assert not made.loop.has_work
    for i, prompt in enumerate(prompts):
        got = made.generate(prompt, Sampling(max_tokens=9, seed=1), session=str(i))
        made.loop.release(str(i))
        assert got.logprobs == pytest.approx(logprobs_of(model, prompt, got.token_ids), abs=1e-4)


def test_logprobs_that_are_no_numbers_fail_their_request_only(model: PreTrainedModel) -> None:
    made, adapter = bench(model), random_adapter(model, 1)
    broken = replace(adapter, tensors={k: v * float("nan") for k, v in adapter.tensors.items()})
    made.loop.versions.add(Policy(version=1), broken)
    bad, _ = made.request(prompt_of(1, 20), Sampling(max_tokens=6), Policy(version=1), "s")
    good, _ = made.request(prompt_of(1, 20), Sampling(max_tokens=6))
    made.run()
    assert "not finite" in str(made.ended[bad])
    assert isinstance(made.ended[good], Generation)


def test_what_is_no_number_spoils_a_slot_for_nobody_else(model: PreTrainedModel) -> None:
    """Hidden keys count with weight 0, and 0 times infinity is no number either."""
    made, adapter, prompt = bench(model, slots=1), random_adapter(model, 1), prompt_of(1, 10)
    huge = replace(adapter, tensors={k: v * 1e30 for k, v in adapter.tensors.items()})
    made.loop.versions.add(Policy(version=1), huge)
    before = made.generate(prompt, Sampling(max_tokens=3), session="a")
    made.loop.release("a")
    bad, _ = made.request(prompt_of(2, 40), Sampling(max_tokens=3), Policy(version=1))
    made.run()
    assert "not finite" in str(made.ended[bad])
    assert made.generate(prompt, Sampling(max_tokens=3)) == before


def test_a_token_the_model_does_not_have_fails_its_request_only(model: PreTrainedModel) -> None:
    made = bench(model)
    bad, _ = made.request([6, VOCABULARY], Sampling(max_tokens=3))
    assert "token 500 is none of this model's 500" in str(made.ended[bad])
    assert len(made.generate([6, VOCABULARY - 1], Sampling(max_tokens=3)).token_ids) == 3


def test_a_policy_published_anew_finds_nothing_of_the_old_one(model: PreTrainedModel) -> None:
    made, prompt, policy = bench(model), prompt_of(1, 40), Policy(version=1)
    for seed in (1, 2):
        adapter = random_adapter(model, seed)
        made.loop.versions.add(policy, adapter)
        got = made.generate(prompt, Sampling(max_tokens=6, temperature=0), policy)
        assert list(got.token_ids) == greedy(merged(model, adapter), prompt, 6)
        made.loop.retire(policy)


@pytest.mark.parametrize("limit", [1 << 30, 0], ids=["merged", "low-rank"])
def test_two_versions_in_one_batch_answer_as_themselves(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(versions, "_MERGE_LIMIT_BYTES", limit)
    made, prompt = bench(model), prompt_of(8, 25)
    adapters = [None, random_adapter(model, 1), random_adapter(model, 2)]
    for version in (1, 2):
        made.loop.versions.add(Policy(version=version), adapters[version])
    sampling = Sampling(max_tokens=10, temperature=0)
    numbers = [made.request(prompt, sampling, Policy(version=v))[0] for v in (0, 1, 2, 1, 0)]
    made.loop.step()
    made.loop.step()  # those that begin alike under one version wait for the first of them
    assert len(made.loop._seats.requests()) == 5
    made.run()
    for number, version in zip(numbers, (0, 1, 2, 1, 0), strict=True):
        own, got = merged(model, adapters[version]), made.ended[number]
        assert isinstance(got, Generation)
        assert list(got.token_ids) == greedy(own, prompt, 10)
        assert got.logprobs == pytest.approx(logprobs_of(own, prompt, got.token_ids), abs=1e-4)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=8))
def test_common_length(pairs: list[tuple[int, int]]) -> None:
    a, b = (np.array([p[side] for p in pairs], dtype=np.int64) for side in (0, 1))
    n = common_length(a, b)
    assert (a[:n] == b[:n]).all()
    assert n == len(a) or a[n] != b[n]
