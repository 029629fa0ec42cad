"""The engine that says what a script says: the real one samples as many tokens, and nothing of it is heard."""

from __future__ import annotations

from agentgrpo.doctor.script import ListeningEngine
from agentgrpo.engines.scripted import ScriptedEngine
from agentgrpo.types import EpisodeKey, Policy, Sampling

KEY = str(EpisodeKey(phase="train", step=1, task_id="a/b", sample=3))


async def test_without_scripts_it_only_listens() -> None:
    inner = ScriptedEngine(reply=lambda prompt, sampling: (5, 6, 7))
    engine = ListeningEngine(inner)
    await engine.publish(None, Policy())
    said = await engine.generate([1, 2], Sampling(max_tokens=8), Policy(), session=KEY)
    assert said.token_ids == (5, 6, 7)
    assert [(c.session, c.prompt_ids, c.generation) for c in engine.calls] == [(KEY, (1, 2), said)]
    assert (engine.context_length, engine.max_sequences) == (inner.context_length, inner.max_sequences)
    await engine.release(KEY)
    await engine.retire(Policy())
    assert (inner.released, inner.live) == ([KEY], {})


async def test_an_answer_takes_the_place_of_as_many_sampled_tokens() -> None:
    inner = ScriptedEngine(reply=lambda prompt, sampling: (9,) * sampling.max_tokens)
    engine = ListeningEngine(inner, {("a/b", 3): [[1, 2], [3]]})
    await engine.publish(None, Policy())
    sampling = Sampling(max_tokens=8, stop_token_ids=(9,))
    first, second, third = [await engine.generate([0], sampling, Policy(), session=KEY) for _ in range(3)]
    assert (first.token_ids, len(first.logprobs), first.finish_reason) == ((1, 2), 2, "stop")
    assert (second.token_ids, third.token_ids) == ((3,), (3,))  # a script that is over repeats its end
    assert inner.calls[0][1] == Sampling(max_tokens=2, stop_token_ids=())


async def test_an_answer_that_does_not_fit_is_cut_off_as_a_real_one() -> None:
    inner = ScriptedEngine(reply=lambda prompt, sampling: (9,))  # a full context: fewer than asked for
    engine = ListeningEngine(inner, {("a/b", 3): [[1, 2, 3, 4]]})
    await engine.publish(None, Policy())
    said = await engine.generate([0], Sampling(max_tokens=3), Policy(), session=KEY)
    assert (said.token_ids, len(said.logprobs), said.finish_reason) == ((1, 2, 3), 3, "length")
