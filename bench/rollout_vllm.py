"""(a) Tokens a second through the whole rollout path against bare `vllm.LLM.generate`; (e) publish and proof.

The rollout's requests are kept as they were: prompts, lengths, seeds, adapter. Bare vLLM is then asked the same, all
episodes' first turns at once, then all second turns and so on: no environment, no chat template, no store.
`--quick` starts vLLM once and asks the engine's own past the engine; its two rounds say less than the whole bench.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentgrpo.chat import Chat
from agentgrpo.config.run import RolloutConfig
from agentgrpo.engines.adapters import save_adapter
from agentgrpo.engines.proof import Canary, Proof
from agentgrpo.registry import resolve_env
from agentgrpo.rollout.manager import RolloutManager
from agentgrpo.store.episodes import EpisodeStore
from agentgrpo.tasks import load_tasks
from agentgrpo.types import Adapter, Generation, Policy, Sampling, Trajectory
from bench import vllm_side
from bench.lockbox_model import lockbox_model

if TYPE_CHECKING:
    from agentgrpo.engines.vllm_local import VllmEngine
    from agentgrpo.learner.policy import LoraPolicy

GROUP, TURNS = 8, 6
POLICY = Policy()
GROUPS = vllm_side.SEQUENCES // GROUP  # every episode runs from the beginning


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request of a rollout and how much came back."""

    turn: int
    prompt_ids: tuple[int, ...]
    seed: int
    tokens: int


@dataclass(slots=True)
class Listener:
    """An engine that keeps what it was asked."""

    engine: VllmEngine
    asked: list[Asked] = field(default_factory=list)
    turns: Counter[str] = field(default_factory=Counter)

    @property
    def context_length(self) -> int:
        return self.engine.context_length

    @property
    def max_sequences(self) -> int:
        return self.engine.max_sequences

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, policy: Policy, *, session: str = ""
    ) -> Generation:
        made = await self.engine.generate(prompt_ids, sampling, policy, session=session)
        asked = Asked(
            turn=self.turns[session], prompt_ids=tuple(prompt_ids), seed=sampling.seed, tokens=len(made.token_ids)
        )
        self.asked.append(asked)
        self.turns[session] += 1
        return made

    async def release(self, session: str) -> None:
        await self.engine.release(session)

    async def publish(
        self, adapter: Adapter | None, policy: Policy, *, canary: Canary | None = None
    ) -> tuple[Proof, ...]:
        return await self.engine.publish(adapter, policy, canary=canary)

    async def retire(self, policy: Policy) -> None:
        await self.engine.retire(policy)

    def stand_by(self) -> AbstractAsyncContextManager[None]:
        return self.engine.stand_by()

    async def close(self) -> None:
        await self.engine.close()


def measure(*, quick: bool) -> dict[str, float | None]:
    """Return our tokens a second as a share of bare vLLM's, and milliseconds per publish; None without vLLM."""
    if not vllm_side.has_vllm():
        return {"vs_bare_vllm": None, "publish_ms": None}
    return _measure_quickly() if quick else _measure_beside_bare()


def _measure_quickly() -> dict[str, float | None]:
    """Start vLLM once, and ask the same one directly: a second start takes longer than all that is measured."""
    trained, engine = vllm_side.policy(), vllm_side.start()
    try:
        publish_ms = asyncio.run(_publish(engine, trained, 8))
        asyncio.run(engine.publish(trained.adapter(), POLICY))
        return {"vs_bare_vllm": _share(engine, Direct(engine), turns=2, rounds=2), "publish_ms": publish_ms}
    finally:
        asyncio.run(engine.close())


def _measure_beside_bare() -> dict[str, float | None]:
    trained = vllm_side.policy()
    with ThreadPoolExecutor() as pool:  # beside each other: a start takes some 15 seconds, an end some 4
        starting = pool.submit(Bare)
        engine, bare = vllm_side.start(), starting.result()
        try:
            publish_ms = asyncio.run(_publish(engine, trained, 40))
            asyncio.run(engine.publish(trained.adapter(), POLICY))
            bare.load(trained.adapter())
            share = _share(engine, bare, turns=TURNS, rounds=6)
        finally:
            ending = pool.submit(bare.close)
            asyncio.run(engine.close())
            ending.result()
    return {"vs_bare_vllm": share, "publish_ms": publish_ms}


def _share(engine: VllmEngine, bare: Bare | Direct, *, turns: int, rounds: int) -> float:
    """Return the median of the ratios of what was measured in the same round, first the one side, then the other."""
    ratios = []
    for step in range(rounds + 1):
        ours, asked = asyncio.run(_rollout(engine, step, turns if step else 1))
        theirs = bare.seconds(asked)
        tokens = sum(a.tokens for a in asked)
        print(f"{tokens} tokens: {tokens / ours:,.0f} a second through the rollout, {tokens / theirs:,.0f} bare")
        ratios.append(theirs / ours)
    return round(statistics.median(ratios[1:]), 3)  # the first warms up


async def _rollout(engine: VllmEngine, step: int, turns: int) -> tuple[float, list[Asked]]:
    """Roll out once; return the seconds and the requests."""
    chat = Chat.from_folder(lockbox_model(head_dim=32), enable_thinking=False)
    source = resolve_env("lockbox", turns=turns)
    config = RolloutConfig(
        concurrency=vllm_side.SEQUENCES, max_turns=turns + 1, max_tokens=400, max_turn_tokens=64, temperature=1.0
    )
    listener = Listener(engine)
    with (
        tempfile.TemporaryDirectory(prefix="agentgrpo-bench-") as folder,
        EpisodeStore(Path(folder) / "episodes.sqlite") as store,
    ):

        async def keep(trajectory: Trajectory) -> None:
            await store.add([trajectory])

        async with RolloutManager(source, chat, listener, config, seed=0) as manager:
            clock = time.perf_counter()
            await manager.rollout(
                load_tasks(source.tasks("train"))[GROUPS * step : GROUPS * (step + 1)],
                policy=POLICY,
                phase="train",
                step=step,
                group_size=GROUP,
                sampling=Sampling(max_tokens=64),
                on_episode=keep,
            )
            return time.perf_counter() - clock, listener.asked


def _sampling(asked: Asked) -> Any:
    from vllm import SamplingParams

    return SamplingParams(
        max_tokens=asked.tokens, seed=asked.seed, ignore_eos=True, logprobs=0, detokenize=False, temperature=1.0
    )


def _by_turn(asked: Sequence[Asked]) -> list[list[Asked]]:
    return [[a for a in asked if a.turn == turn] for turn in range(1 + max(a.turn for a in asked))]


class Direct:
    """The vLLM that an engine has started, asked past the engine."""

    def __init__(self, engine: VllmEngine) -> None:
        self._engine = engine

    def seconds(self, asked: Sequence[Asked]) -> float:
        """Return the seconds the same requests take, turn by turn."""
        return asyncio.run(self._engine._there(self._seconds(asked)))

    async def _seconds(self, asked: Sequence[Asked]) -> float:
        await self._engine._llm.reset_prefix_cache()
        clock = time.perf_counter()
        for turn, now in enumerate(_by_turn(asked)):
            await asyncio.gather(*(self._one(a, f"direct-{turn}-{number}") for number, a in enumerate(now)))
        return time.perf_counter() - clock

    async def _one(self, asked: Asked, name: str) -> None:
        prompt, lora = {"prompt_token_ids": list(asked.prompt_ids)}, self._engine._versions[POLICY].lora
        async for _ in self._engine._llm.generate(prompt, _sampling(asked), name, lora_request=lora):
            pass


class Bare:
    """Bare vLLM, started as the rollout's is."""

    def __init__(self) -> None:
        from vllm import LLM

        self._llm = LLM(**vllm_side.options())
        self._lora: Any = None

    def close(self) -> None:
        """End its processes."""
        self._llm.llm_engine.engine_core.shutdown()

    def load(self, adapter: Adapter) -> None:
        """Use an adapter."""
        from vllm.lora.request import LoRARequest

        folder = tempfile.mkdtemp(prefix="agentgrpo-bench-")
        save_adapter(adapter, Path(folder))
        self._lora = LoRARequest("bench", 1, folder)

    def seconds(self, asked: Sequence[Asked]) -> float:
        """Return the seconds the same requests take, turn by turn."""
        self._llm.reset_prefix_cache()
        clock = time.perf_counter()
        for now in _by_turn(asked):
            prompts = [{"prompt_token_ids": list(a.prompt_ids)} for a in now]
            self._llm.generate(prompts, list(map(_sampling, now)), lora_request=self._lora, use_tqdm=False)
        return time.perf_counter() - clock


async def _publish(engine: VllmEngine, trained: LoraPolicy, count: int) -> float:
    """Return the milliseconds from the end of learning to a version that may be sampled from, proof included."""
    seconds = []
    for version in range(count + 1):
        vllm_side.move(trained, version)
        policy = Policy(name="published", version=version)
        clock = time.perf_counter()
        await engine.publish(trained.adapter(), policy, canary=trained.canary())
        seconds.append(time.perf_counter() - clock)
        await engine.retire(policy)
    return round(1000 * statistics.median(seconds[1:]), 1)  # the first also samples the canary's text and warms up
