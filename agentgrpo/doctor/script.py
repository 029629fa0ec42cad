"""An engine that does the work of sampling and then says what a demonstration says.

A throw-away model cannot act, so its episodes cost nothing like those of the run. Here the real engine generates as
many tokens as each scripted answer has; the answer takes their place, and the episode goes on as an able agent's would.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace

from agentgrpo.chat import Chat
from agentgrpo.engines import Engine
from agentgrpo.engines.proof import Canary, Proof
from agentgrpo.registry import EnvSource
from agentgrpo.types import Adapter, Generation, Policy, Sampling, Task
from agentgrpo.warm_start.demonstrations import demonstrate

_SPREAD = 0.5  # samples of a group are played with qualities within this share of the wanted one: their rewards differ

Answers = Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One generation: what was asked, what came."""

    session: str
    prompt_ids: tuple[int, ...]
    generation: Generation


class ListeningEngine:
    """Passes everything to an engine and keeps what was asked and what came; answers from scripts, if it has any."""

    def __init__(self, engine: Engine, scripts: Mapping[tuple[str, int], Answers] | None = None) -> None:
        self._engine = engine
        self._scripts = scripts or {}
        self._turns: Counter[str] = Counter()
        self.calls: list[Call] = []

    @property
    def context_length(self) -> int:
        return self._engine.context_length

    @property
    def max_sequences(self) -> int:
        return self._engine.max_sequences

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, policy: Policy, *, session: str = ""
    ) -> Generation:
        """Generate, and remember it."""
        said = self._next_answer(session)
        if said is None:
            generation = await self._engine.generate(prompt_ids, sampling, policy, session=session)
        else:
            generation = await self._work(prompt_ids, sampling, policy, session, said)
        self.calls.append(Call(session=session, prompt_ids=tuple(prompt_ids), generation=generation))
        return generation

    async def _work(
        self, prompt_ids: Sequence[int], sampling: Sampling, policy: Policy, session: str, said: Sequence[int]
    ) -> Generation:
        count = min(len(said), sampling.max_tokens)
        asked = replace(sampling, max_tokens=count, stop_token_ids=())
        real = await self._engine.generate(prompt_ids, asked, policy, session=session)
        return Generation(
            token_ids=tuple(said[:count]),
            logprobs=(*real.logprobs, *(0.0,) * (count - len(real.logprobs))),
            finish_reason="stop" if count == len(said) else "length",
        )

    def _next_answer(self, session: str) -> Sequence[int] | None:
        if not self._scripts:
            return None
        task, _, sample = session.rpartition("/")
        answers = self._scripts[task.split("/", 2)[2], int(sample.partition(".")[0])]
        turn, self._turns[session] = self._turns[session], self._turns[session] + 1
        return answers[min(turn, len(answers) - 1)]

    async def release(self, session: str) -> None:
        await self._engine.release(session)

    async def publish(
        self, adapter: Adapter | None, policy: Policy, *, canary: Canary | None = None
    ) -> tuple[Proof, ...]:
        return await self._engine.publish(adapter, policy, canary=canary)

    async def retire(self, policy: Policy) -> None:
        await self._engine.retire(policy)

    def stand_by(self) -> AbstractAsyncContextManager[None]:
        return self._engine.stand_by()

    async def close(self) -> None:
        await self._engine.close()


def write_scripts(
    source: EnvSource, chat: Chat, tasks: Sequence[Task], *, samples: int, quality: float, seed: int
) -> dict[tuple[str, int], Answers]:
    """Return what a demonstrator of this quality says, per (task id, sample), from where a rollout begins."""
    scripts: dict[tuple[str, int], Answers] = {}
    for task in tasks:
        for sample in range(samples):
            share = 1 + _SPREAD * (2 * sample / max(samples - 1, 1) - 1)
            played = demonstrate(source, task, quality=min(1.0, quality * share), seed=seed)
            scripts[task.id, sample] = [chat.completion(action) for action, _ in played.turns]
    return scripts
