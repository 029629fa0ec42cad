"""The embedded engine against transformers: `generate` (static batches) and `generate_batch` (continuous batching).

The same tiny model, the same prompts, one torch thread; every side samples at temperature 1. Ours returns logprobs and
draws each request from a seed of its own; the others do neither. Sides alternate, so that they see the same noise.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import GenerationConfig, PreTrainedModel
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from agentgrpo.causal_lm import share_weights
from agentgrpo.engines.decode import DecodeLoop
from agentgrpo.engines.embedded import EmbeddedEngine
from agentgrpo.engines.requests import Request
from agentgrpo.types import Policy, Sampling
from bench.common import VOCABULARY, alternate, last_line, paired, report, spread, tiny_model

PLACES, PROMPT, PAGE = 64, 64, 32
TURNS, TURN_TOKENS, RESULT_TOKENS, SHARED, OWN = 4, 20, 15, 200, 20


@dataclass(frozen=True)
class Work:
    """Prompts [n, PROMPT] and how many tokens to sample for each."""

    prompts: Sequence[Sequence[int]]
    lengths: Sequence[int]

    @property
    def tokens(self) -> int:
        return sum(self.lengths)


def work(lengths: Sequence[int]) -> Work:
    """Return prompts without anything in common for these lengths."""
    draw = np.random.default_rng(0)
    return Work(draw.integers(1, VOCABULARY, (len(lengths), PROMPT)).tolist(), list(map(int, lengths)))


def ours(model: PreTrainedModel, todo: Work, *, with_start: bool = False) -> float:
    """Return sampled tokens per second of the embedded engine, all requests sent at once."""

    async def run() -> float:
        clock = time.perf_counter()
        engine = EmbeddedEngine(model, max_sequences=PLACES, context_length=PROMPT + max(todo.lengths))
        await engine.publish(None, Policy())
        clock = clock if with_start else time.perf_counter()
        jobs = zip(todo.prompts, todo.lengths, strict=True)
        done = await asyncio.gather(
            *(engine.generate(p, Sampling(max_tokens=n, seed=i), Policy()) for i, (p, n) in enumerate(jobs))
        )
        seconds = time.perf_counter() - clock
        await engine.close()
        assert [len(g.logprobs) for g in done] == todo.lengths
        return todo.tokens / seconds

    return asyncio.run(run())


@torch.inference_mode()
def static(model: PreTrainedModel, todo: Work) -> float:
    """Return useful tokens per second of `generate`: batches of PLACES in the order given, each to its longest."""
    clock = time.perf_counter()
    for start in range(0, len(todo.prompts), PLACES):
        ids = torch.tensor(todo.prompts[start : start + PLACES])
        longest = max(todo.lengths[start : start + PLACES])
        settings = GenerationConfig(
            do_sample=True, temperature=1.0, top_k=0, min_new_tokens=longest, max_new_tokens=longest, pad_token_id=0
        )
        out = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)  # type: ignore[operator]
        assert out.shape[1] == PROMPT + longest
    return todo.tokens / (time.perf_counter() - clock)


def by_hand(model: PreTrainedModel, todo: Work) -> float:
    """Return sampled tokens per second of continuous batching, its cache sized to PLACES sequences and laid out."""
    pages = -(-(PROMPT + max(todo.lengths)) // PAGE)
    cache = ContinuousBatchingConfig(page_size=PAGE, num_blocks=PLACES * pages, max_batch_tokens=512)
    return _continuous(model, todo, cache)[0]


def as_it_comes(model: PreTrainedModel, todo: Work) -> float:
    """Return the same as a call of `generate_batch` gives it: its cache takes nearly all the memory there is."""
    return _continuous(model, todo, ContinuousBatchingConfig())[1]


def with_a_quarter(model: PreTrainedModel, todo: Work) -> float:
    """Return the same where its cache may take a quarter of the memory: laid out in a quarter of the time."""
    return _continuous(model, todo, ContinuousBatchingConfig(max_memory_percent=0.25))[1]


def _continuous(model: PreTrainedModel, todo: Work, cache: ContinuousBatchingConfig) -> tuple[float, float]:
    """Return tokens per second of continuous batching without its start, and with it."""
    settings = GenerationConfig(do_sample=True, temperature=1.0, top_k=0, eos_token_id=-1, pad_token_id=0)
    start = time.perf_counter()
    with model.continuous_batching_context_manager(  # type: ignore[operator]
        generation_config=settings, continuous_batching_config=cache
    ) as manager:
        clock = time.perf_counter()
        for prompt, length in zip(todo.prompts, todo.lengths, strict=True):
            manager.add_request(list(prompt), max_new_tokens=length)
        found = 0
        for _ in todo.lengths:
            result = manager.get_result(timeout=600)
            assert result is not None and result.error is None, "continuous batching gave no answer"
            found += len(result.generated_tokens)
        end = time.perf_counter()
    assert found == todo.tokens
    return todo.tokens / (end - clock), todo.tokens / (end - start)


Side = Callable[[PreTrainedModel, Work], float]


async def _episode(engine: EmbeddedEngine, number: int) -> None:
    draw = np.random.default_rng(number)
    shared = np.random.default_rng(0).integers(0, VOCABULARY, SHARED).tolist()
    ids = [*shared, *draw.integers(0, VOCABULARY, OWN).tolist()]
    for turn in range(TURNS):
        sampling = Sampling(max_tokens=TURN_TOKENS, seed=number * TURNS + turn)
        generation = await engine.generate(ids, sampling, Policy(), session=str(number))
        ids += [*generation.token_ids, *draw.integers(0, VOCABULARY, RESULT_TOKENS).tolist()]
    await engine.release(str(number))


def multi_turn(model: PreTrainedModel, at_once: int) -> float:
    """Return sampled tokens per second of `at_once` episodes of several turns with a common beginning."""

    async def run() -> float:
        engine = EmbeddedEngine(model, max_sequences=at_once)
        await engine.publish(None, Policy())
        clock = time.perf_counter()
        await asyncio.gather(*(_episode(engine, number) for number in range(at_once)))
        seconds = time.perf_counter() - clock
        await engine.close()
        return at_once * TURNS * TURN_TOKENS / seconds

    return asyncio.run(run())


def profiled(model: PreTrainedModel, todo: Work, most: int = 12) -> list[tuple[str, float, int]]:
    """Return the operations that take longest: name, share of the time in percent, number of calls."""
    loop = DecodeLoop(share_weights(model), max_sequences=PLACES, context_length=PROMPT + max(todo.lengths))
    loop.versions.add(Policy(), None)
    for i, (prompt, length) in enumerate(zip(todo.prompts, todo.lengths, strict=True)):
        sampling = Sampling(max_tokens=length, seed=i)
        loop.add(Request(tuple(prompt), sampling, Policy(), session="", on_end=lambda result: None))
    with torch.inference_mode(), profile(activities=[ProfilerActivity.CPU]) as seen:
        while loop.has_work:
            loop.step()
    rows = sorted(seen.key_averages(), key=lambda e: -e.self_cpu_time_total)
    total = sum(e.self_cpu_time_total for e in rows)
    return [(e.key, 100 * e.self_cpu_time_total / total, e.count) for e in rows[:most]]


def _compare(model: PreTrainedModel, todo: Work, theirs: Side, rounds: int) -> tuple[list[float], list[float]]:
    with_start = theirs in (as_it_comes, with_a_quarter)
    rates = alternate(
        {"ours": lambda: ours(model, todo, with_start=with_start), "theirs": lambda: theirs(model, todo)}, rounds
    )
    return rates["ours"], rates["theirs"]


def main(*, quick: bool = False) -> None:
    """Print and write tokens per second of each side and the ratios between them."""
    torch.set_num_threads(1)
    logging.getLogger("ContinuousBatchingLogger").setLevel(logging.ERROR)
    model, rounds = tiny_model(), 3 if quick else 7
    equal = work([48 if quick else 128] * PLACES)
    draw = np.random.default_rng(1)
    ragged = work(draw.integers(16 if quick else 32, 129 if quick else 257, 256).tolist())
    few = Work(ragged.prompts[: 48 if quick else 128], ragged.lengths[: 48 if quick else 128])
    static(model, work([4] * PLACES))  # warm up
    ours(model, work([4] * PLACES))
    whole_call = (
        ("generate_batch, a quarter of memory, with its start", with_a_quarter)
        if quick
        else ("generate_batch as it comes, with its start", as_it_comes)
    )
    sides: list[tuple[str, str, Work, Side, int]] = [
        ("64 equal", "generate", equal, static, rounds),
        ("256 ragged", "generate", ragged, static, 2 if quick else 5),
        (f"{len(few.lengths)} ragged", whole_call[0], few, whole_call[1], 1),
        (f"{len(few.lengths)} ragged", "generate_batch sized by hand, started", few, by_hand, 1 if quick else 2),
    ]
    rows, ratios = [], []
    for name, other, todo, theirs, times in sides:
        mine, others = _compare(model, todo, theirs, times)
        ratios.append(paired(mine, others))
        rows.append((name, other, str(spread(mine)), str(spread(others)), str(ratios[-1])))
    report(
        "engine",
        ("sequences", "against", "ours, tokens/s", "theirs, tokens/s", "ratio"),
        rows,
        multi_turn={n: multi_turn(model, n) for n in ((8, 32) if quick else (1, 8, 32, 128))},
        profile=profiled(model, equal),
        quick=quick,
    )
    names = ("equal_vs_generate", "ragged_vs_generate", "ragged_vs_generate_batch", "ragged_vs_generate_batch_by_hand")
    last_line({name: round(ratio.median, 2) for name, ratio in zip(names, ratios, strict=True)})


if __name__ == "__main__":
    import sys

    main(quick="--quick" in sys.argv[1:])
