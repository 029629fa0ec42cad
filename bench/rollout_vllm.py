"""(a) Tokens a second through the whole rollout path against bare `vllm.LLM.generate`.

The rollout's requests are kept as they were: prompts, lengths, seeds, adapter. Bare vLLM is then asked the same, all
episodes' first turns at once, then all second turns and so on: no environment, no chat template, no store.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from agentgrpo.chat import Chat
from agentgrpo.config import RolloutConfig
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

GROUP, TURNS = 8, 6
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


def measure(*, quick: bool) -> float | None:
    """Return our tokens a second as a share of bare vLLM's; None without vLLM, or where two starts take too long."""
    if quick or not vllm_side.has_vllm():
        return None
    trained = vllm_side.policy()
    vllm_side.move(trained, 1)
    rounds = asyncio.run(_rollouts(vllm_side.start(), trained.adapter(), rounds=4))[1:]
    ours = [seconds for seconds, _ in rounds]
    bare = _bare([asked for _, asked in rounds], trained.adapter())
    tokens = [sum(a.tokens for a in asked) for _, asked in rounds]
    for count, mine, theirs in zip(tokens, ours, bare, strict=True):
        print(f"{count} tokens: {count / mine:,.0f} a second through the rollout, {count / theirs:,.0f} bare")
    return round(statistics.median(b / a for a, b in zip(ours, bare, strict=True)), 3)


async def _rollouts(engine: VllmEngine, adapter: Adapter, *, rounds: int) -> list[tuple[float, list[Asked]]]:
    """Roll out some times; return the seconds and the requests of each."""
    chat = Chat.from_folder(lockbox_model(head_dim=32), enable_thinking=False)
    source = resolve_env("lockbox", turns=TURNS)
    config = RolloutConfig(
        concurrency=vllm_side.SEQUENCES, max_turns=TURNS + 1, max_tokens=400, max_turn_tokens=64, temperature=1.0
    )
    found = []
    await engine.publish(adapter, Policy())
    with (
        tempfile.TemporaryDirectory(prefix="agentgrpo-bench-") as folder,
        EpisodeStore(Path(folder) / "episodes.sqlite") as store,
    ):

        async def keep(trajectory: Trajectory) -> None:
            await store.add([trajectory])

        for step in range(rounds):
            listener = Listener(engine)
            tasks = load_tasks(source.tasks("train"))[GROUPS * step : GROUPS * (step + 1)]
            async with RolloutManager(source, chat, listener, config, seed=0) as manager:
                clock = time.perf_counter()
                await manager.rollout(
                    tasks,
                    policy=Policy(),
                    phase="train",
                    step=step,
                    group_size=GROUP,
                    sampling=Sampling(max_tokens=64),
                    on_episode=keep,
                )
                found.append((time.perf_counter() - clock, listener.asked))
    await engine.close()
    return found


def _bare(rounds: Sequence[Sequence[Asked]], adapter: Adapter) -> list[float]:
    """Return the seconds bare vLLM takes for the same requests, turn by turn."""
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    with tempfile.TemporaryDirectory(prefix="agentgrpo-bench-") as folder:
        save_adapter(adapter, Path(folder))
        llm, lora = LLM(**vllm_side.options()), LoRARequest("bench", 1, folder)
        seconds = []
        for asked in (rounds[0], *rounds):  # the first again, to warm up
            llm.reset_prefix_cache()
            clock = time.perf_counter()
            for turn in range(1 + max(a.turn for a in asked)):
                now = [a for a in asked if a.turn == turn]
                params = [
                    SamplingParams(
                        max_tokens=a.tokens, seed=a.seed, ignore_eos=True, logprobs=0, detokenize=False, temperature=1.0
                    )
                    for a in now
                ]
                prompts = [{"prompt_token_ids": list(a.prompt_ids)} for a in now]
                llm.generate(prompts, params, lora_request=lora, use_tqdm=False)
            seconds.append(time.perf_counter() - clock)
    return seconds[1:]
