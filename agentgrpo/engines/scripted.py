"""A fake engine for tests and dry runs: a function decides what is "sampled", when, and what breaks.

It keeps the contract of a real one: versions are published and retired, calls are cancelled, context is bounded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

from agentgrpo.engines import round_logprob
from agentgrpo.engines.proof import Canary, Proof
from agentgrpo.errors import EngineFailure
from agentgrpo.types import Adapter, Generation, Policy, Sampling

Reply = Callable[[Sequence[int], Sampling], Sequence[int]]


@dataclass(slots=True, kw_only=True)
class ScriptedEngine:
    """Answers every prompt with `reply(prompt_ids, sampling)`, cut to the limits a real engine would enforce.

    Args:
        reply: The ids to answer with; a reply that ends in a stop token finishes with "stop".
        latency: Seconds before the answer, as a function of the number of the call (from 0).
        faults: Call number -> exception raised instead of an answer.
        logprob: The logprob every token is said to have.
        context_length: Most tokens of prompt and completion.
        max_sequences: What it says of itself; nothing waits here.
        cache_sequences: How many generations its cache holds; each further one at the same time preempts another, so
            that both take their time once more.
    """

    reply: Reply
    latency: Callable[[int], float] = lambda call: 0.0
    faults: dict[int, Exception] = field(default_factory=dict)
    logprob: float = -0.5
    context_length: int = 4096
    max_sequences: int = 1024
    cache_sequences: int | None = None
    calls: list[tuple[tuple[int, ...], Sampling, Policy, str]] = field(default_factory=list)
    live: dict[Policy, Adapter | None] = field(default_factory=dict)
    released: list[str] = field(default_factory=list)
    cancelled: int = 0
    running: int = 0
    preemptions: int = 0

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, policy: Policy, *, session: str = ""
    ) -> Generation:
        """Answer as scripted; see `Engine.generate`."""
        number = len(self.calls)
        self.calls.append((tuple(prompt_ids), sampling, policy, session))
        if policy not in self.live:
            raise EngineFailure(f"{policy} is not published")
        if len(prompt_ids) >= self.context_length:
            raise EngineFailure(f"a prompt of {len(prompt_ids)} does not fit a context of {self.context_length}")
        try:
            await self._compute(self.latency(number))
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if number in self.faults:
            raise self.faults[number]
        room = min(sampling.max_tokens, self.context_length - len(prompt_ids))
        ids = tuple(self.reply(prompt_ids, sampling))[:room]
        stopped = bool(ids) and ids[-1] in sampling.stop_token_ids
        logprobs = (round_logprob(self.logprob),) * len(ids)
        return Generation(token_ids=ids, logprobs=logprobs, finish_reason="stop" if stopped else "length")

    async def _compute(self, seconds: float) -> None:
        self.running += 1
        try:
            if self.cache_sequences is not None and self.running > self.cache_sequences:
                self.preemptions += 1
                await asyncio.sleep(2 * seconds)
            await asyncio.sleep(seconds)
        finally:
            self.running -= 1

    async def release(self, session: str) -> None:
        """Note that a session ended."""
        self.released.append(session)

    async def publish(
        self, adapter: Adapter | None, policy: Policy, *, canary: Canary | None = None
    ) -> tuple[Proof, ...]:
        """Make a policy live; publishing it twice is an error, as in a real engine."""
        if policy in self.live:
            raise EngineFailure(f"{policy} was published before")
        self.live[policy] = adapter
        return ()

    async def retire(self, policy: Policy) -> None:
        """Forget a policy."""
        self.live.pop(policy, None)

    def stand_by(self) -> nullcontext[None]:
        """Hold nothing, so there is nothing to give back."""
        return nullcontext()

    async def close(self) -> None:
        """Nothing to stop."""
