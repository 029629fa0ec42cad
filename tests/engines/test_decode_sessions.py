"""Sessions and slots of the decode loop: what is computed once, who waits, what a release frees."""

from __future__ import annotations

import pytest
from transformers import PreTrainedModel

from agentgrpo.types import Generation, Policy, Sampling
from tests.engines.decoding import bench, prompt_of
from tests.engines.models import greedy, logprobs_of, merged, random_adapter


def test_a_session_feeds_only_what_is_new(model: PreTrainedModel) -> None:
    made, prompt = bench(model), prompt_of(1, 40)
    sampling = Sampling(max_tokens=6, seed=1)
    first = made.generate(prompt, sampling, session="a")
    assert made.fed == [40, 1, 1, 1, 1, 1]
    made.fed.clear()
    following = [*prompt, *first.token_ids, *prompt_of(2, 7)]
    second = made.generate(following, sampling, session="a")
    assert made.fed[0] == 1 + 7  # the last token sampled was never fed
    assert second.token_ids == bench(model).generate(following, sampling).token_ids
    assert second.logprobs == pytest.approx(logprobs_of(model, following, second.token_ids), abs=1e-4)


def test_a_session_that_forks_keeps_what_is_common(model: PreTrainedModel) -> None:
    made, prompt = bench(model), prompt_of(1, 40)
    made.generate(prompt, Sampling(max_tokens=6), session="a")
    made.fed.clear()
    other = [*prompt[:25], *prompt_of(3, 10)]
    got = made.generate(other, Sampling(max_tokens=6), session="a")
    assert made.fed[0] == 10
    assert got.logprobs == pytest.approx(logprobs_of(model, other, got.token_ids), abs=1e-4)
    made.fed.clear()
    made.generate(other, Sampling(max_tokens=1), session="a")  # the same again: one token is fed to get its logits
    assert made.fed == [1]


def test_a_session_under_another_policy_starts_anew(model: PreTrainedModel) -> None:
    made, prompt, adapter = bench(model), prompt_of(1, 40), random_adapter(model, 1)
    made.loop.versions.add(Policy(version=1), adapter)
    made.generate(prompt, Sampling(max_tokens=6), session="a")
    got = made.generate(prompt, Sampling(max_tokens=6, temperature=0), Policy(version=1), session="a")
    assert list(got.token_ids) == greedy(merged(model, adapter), prompt, 6)


def test_a_released_session_is_forgotten(model: PreTrainedModel) -> None:
    made, prompt = bench(model), prompt_of(1, 40)
    made.generate(prompt, Sampling(max_tokens=2), session="a")
    made.loop.release("a")
    made.loop.release("never heard of")
    made.fed.clear()
    again = made.generate([*prompt[:30], *prompt_of(2, 9)], Sampling(max_tokens=2), session="a")
    assert made.fed[0] == 9  # but what was fed as prompt still serves whoever begins alike, to the same bits
    assert again == bench(model).generate([*prompt[:30], *prompt_of(2, 9)], Sampling(max_tokens=2))


def test_a_prefix_many_begin_with_is_computed_once(model: PreTrainedModel) -> None:
    made, system = bench(model, slots=8), prompt_of(1, 50)
    prompts = [[*system, *prompt_of(10 + i, 3)] for i in range(5)]
    numbers = [made.request(p, Sampling(max_tokens=1, temperature=0))[0] for p in prompts]
    made.run()
    assert sum(made.fed) == 50 + 5 * 3
    made.fed.clear()
    late = made.generate([*system, *prompt_of(20, 4)], Sampling(max_tokens=1))
    assert sum(made.fed) == 4  # also for those who come later, alone
    assert len(late.token_ids) == 1
    for number, prompt in zip(numbers, prompts, strict=True):
        got = made.ended[number]
        assert isinstance(got, Generation)
        assert got.logprobs == pytest.approx(logprobs_of(model, prompt, got.token_ids), abs=1e-4)


def test_a_shared_prefix_belongs_to_one_policy(model: PreTrainedModel) -> None:
    made, system, adapter = bench(model), prompt_of(1, 50), random_adapter(model, 1)
    made.loop.versions.add(Policy(version=1), adapter)
    for i in range(2):
        made.request([*system, i], Sampling(max_tokens=1))
    made.run()
    prompt = [*system, 9]
    got = made.generate(prompt, Sampling(max_tokens=4, temperature=0), Policy(version=1))
    assert list(got.token_ids) == greedy(merged(model, adapter), prompt, 4)


def test_more_requests_than_slots_wait_their_turn(model: PreTrainedModel) -> None:
    made = bench(model, slots=2)
    for i in range(7):
        made.request(prompt_of(i, 10), Sampling(max_tokens=1 + i % 3, seed=i))
        assert len(made.loop._seats.requests()) <= 2
    made.loop.step()
    assert len(made.loop._queue) == 5
    made.run()
    for i in range(7):
        got = made.ended[i]
        assert isinstance(got, Generation)
        assert got.logprobs == pytest.approx(logprobs_of(model, prompt_of(i, 10), got.token_ids), abs=1e-4)


def test_a_session_keeps_its_slot_until_it_is_released(model: PreTrainedModel) -> None:
    """What is computed anew differs in the last bits from what was not: nobody's cache is taken."""
    made = bench(model, slots=2)
    for name in ("a", "b"):  # each keeps its slot after its turn
        made.generate(prompt_of(1, 20), Sampling(max_tokens=2), session=name)
    late, _ = made.request(prompt_of(2, 20), Sampling(max_tokens=1), session="c")
    following = made.generate_beside(prompt_of(1, 20), Sampling(max_tokens=3), session="b")
    assert len(following.token_ids) == 3  # the next turn of a session overtakes who waits for a slot
    assert late not in made.ended
    made.loop.step()
    assert not made.loop.has_work  # nothing to do but wait for a release
    made.loop.release("a")
    made.run()
    assert isinstance(made.ended[late], Generation)


def test_a_cancelled_request_frees_its_slot_and_disturbs_nobody(model: PreTrainedModel) -> None:
    made = bench(model, slots=2)
    kept, _ = made.request(prompt_of(1, 20), Sampling(max_tokens=12, seed=1))
    _, running = made.request(prompt_of(2, 20), Sampling(max_tokens=200), session="s")
    made.loop.step()
    made.loop.step()
    _, queued = made.request(prompt_of(3, 20), Sampling(max_tokens=200))
    made.loop.cancel(queued)
    made.loop.cancel(running)
    made.loop.cancel(running)
    after = made.generate(prompt_of(2, 20), Sampling(max_tokens=5, seed=2), session="s")
    assert set(made.ended) == {kept, made.requested - 1}
    assert after.logprobs == pytest.approx(logprobs_of(model, prompt_of(2, 20), after.token_ids), abs=1e-4)
    got = made.ended[kept]
    assert isinstance(got, Generation)
    assert got.logprobs == pytest.approx(logprobs_of(model, prompt_of(1, 20), got.token_ids), abs=1e-4)


def test_a_session_may_be_released_in_the_middle_of_a_generation(model: PreTrainedModel) -> None:
    made = bench(model, slots=1)
    number, _ = made.request(prompt_of(1, 20), Sampling(max_tokens=8, seed=1), session="a")
    made.loop.step()
    made.loop.release("a")
    made.run()
    got = made.ended[number]
    assert isinstance(got, Generation)
    assert got.logprobs == pytest.approx(logprobs_of(model, prompt_of(1, 20), got.token_ids), abs=1e-4)
    after = made.generate(prompt_of(2, 20), Sampling(max_tokens=1), session="b")
    assert len(after.token_ids) == 1  # the one slot is free


def test_a_common_beginning_is_copied_from_who_computed_it(model: PreTrainedModel) -> None:
    """All copies of a step are made at once: the target of one is not yet the source of the next."""
    made, shared = bench(model, slots=4), prompt_of(1, 50)
    made.generate([5, 6, 7], Sampling(max_tokens=1), session="first slot")
    made.generate([*shared, 1], Sampling(max_tokens=1), session="keeps what is common")
    made.loop.release("first slot")
    numbers = [made.request([*shared, last], Sampling(max_tokens=3), session=str(last))[0] for last in (2, 3)]
    made.run()
    for number, last in zip(numbers, (2, 3), strict=True):
        assert made.ended[number] == bench(model).generate([*shared, last], Sampling(max_tokens=3))
