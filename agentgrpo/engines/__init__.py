"""Token-in, token-out generation: what a rollout asks of an engine, and nothing about who implements it.

An engine knows neither text nor environments.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol, runtime_checkable

from agentgrpo.engines.proof import Canary, Proof
from agentgrpo.types import Adapter, Generation, Policy, Sampling

LOGPROB_STEP = 2.0**-16  # logprobs are rounded once, here at the boundary, to multiples of this


def round_logprob(value: float) -> float:
    """Round to the multiple of 2**-16 that both learner and store use (error at most 8e-6)."""
    return round(value / LOGPROB_STEP) * LOGPROB_STEP


class Engine(Protocol):
    """Generates token ids from token ids under versioned policies."""

    @property
    def context_length(self) -> int:
        """Most tokens a prompt and its completion may have together."""
        ...

    @property
    def max_sequences(self) -> int:
        """Most sessions that may be open at once; further ones wait for a release."""
        ...

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, policy: Policy, *, session: str = ""
    ) -> Generation:
        """Sample a completion. Calls that share a `session` may reuse each other's cache.

        Raises:
            EngineFailure: the policy was never published, the prompt does not fit, or the engine broke.
        """
        ...

    async def release(self, session: str) -> None:
        """Drop what is kept for a session; unknown sessions are fine."""
        ...

    async def publish(
        self, adapter: Adapter | None, policy: Policy, *, canary: Canary | None = None
    ) -> tuple[Proof, ...]:
        """Make `policy` answer with this adapter (None: the base model). A policy is published once, never changed.

        Returns:
            Proofs that what was loaded is what the canary was scored with, one per server; none without a canary, or
            from an engine that has nothing to lose on the way.

        Raises:
            EngineFailure: it could not be loaded, or does not answer as the learner does. Nothing uses it then.
        """
        ...

    async def retire(self, policy: Policy) -> None:
        """Forget a policy nothing uses any more."""
        ...

    def stand_by(self) -> AbstractAsyncContextManager[None]:
        """Hold while a learner works beside it and nothing generates: it may give its memory back meanwhile."""
        ...

    async def close(self) -> None:
        """Stop; generations still open are cancelled. Safe to call twice."""
        ...


@runtime_checkable
class HasMetrics(Protocol):
    """What an engine may tell of itself with every train step."""

    def metrics(self) -> dict[str, float]:
        """Return numbers by name."""
        ...
