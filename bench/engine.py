"""The embedded engine: sampled tokens per second over multi-turn episodes, one sequence at a time against many."""

from __future__ import annotations

import asyncio

import numpy as np
import torch

from agentgrpo.engines.embedded import EmbeddedEngine
from agentgrpo.types import Policy, Sampling
from bench.common import VOCABULARY, report, tiny_model

TURNS, TURN_TOKENS, RESULT_TOKENS, SHARED, OWN = 4, 20, 15, 200, 20


async def _episode(engine: EmbeddedEngine, number: int) -> None:
    rng = np.random.default_rng(number)
    shared = np.random.default_rng(0).integers(0, VOCABULARY, SHARED).tolist()
    ids = [*shared, *rng.integers(0, VOCABULARY, OWN).tolist()]
    for turn in range(TURNS):
        sampling = Sampling(max_tokens=TURN_TOKENS, seed=number * TURNS + turn)
        generation = await engine.generate(ids, sampling, Policy(), session=str(number))
        ids += [*generation.token_ids, *rng.integers(0, VOCABULARY, RESULT_TOKENS).tolist()]
    await engine.release(str(number))


async def _rollout(engine: EmbeddedEngine, episodes: int, at_once: int) -> None:
    places = asyncio.Semaphore(at_once)

    async def one(number: int) -> None:
        async with places:
            await _episode(engine, number)

    await asyncio.gather(*(one(n) for n in range(episodes)))


def _measure(episodes: int, at_once: int, runs: int) -> float:
    async def session() -> float:
        engine = EmbeddedEngine(tiny_model(), max_sequences=at_once)
        await engine.publish(None, Policy())
        loop_seconds = []
        for _ in range(runs):
            clock = asyncio.get_running_loop().time()
            await _rollout(engine, episodes, at_once)
            loop_seconds.append(asyncio.get_running_loop().time() - clock)
        await engine.close()
        return min(loop_seconds)

    return asyncio.run(session())


def main(*, quick: bool = False) -> None:
    """Print and write sampled tokens per second by concurrency."""
    torch.set_num_threads(1)
    rows = []
    for at_once in (1, 8, 32, 128):
        episodes = min(at_once, 8) if quick else at_once
        seconds = _measure(episodes, at_once, 2 if quick else 3)
        rows.append((at_once, episodes, seconds, episodes * TURNS * TURN_TOKENS / seconds))
    report("engine", ("at once", "episodes", "seconds", "sampled tokens/s"), rows)
