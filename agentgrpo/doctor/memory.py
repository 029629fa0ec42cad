"""Part 8: how much memory a run takes, by part. Pure functions of sizes; what they are checked against is measured."""

from __future__ import annotations

from dataclasses import dataclass

from agentgrpo.config.engine import EngineConfig
from agentgrpo.config.run import LearnerConfig, ModelConfig
from agentgrpo.doctor.subject import ModelFacts
from agentgrpo.engines.kernel import BLOCK
from agentgrpo.engines.slots import blocks_for
from agentgrpo.sizes import activations, cache_column, head
from agentgrpo.types import JsonObject

MERGE_LIMIT = 1 << 30  # the engine merges adapters whose merged copies are smaller than this
_LIVE_VERSIONS = 2  # the policy in use and the one just published


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """What one part of a run takes, in bytes: at least and at most."""

    name: str
    low: float
    high: float

    @property
    def middle(self) -> float:
        return (self.low + self.high) / 2


def exactly(name: str, size: float) -> Amount:
    """Return an amount that is known."""
    return Amount(name=name, low=size, high=size)


def weights(facts: ModelFacts) -> float:
    """Return the bytes of the base weights; engine and learner share them."""
    return facts.parameters * facts.dtype_bytes


def adapter(facts: ModelFacts) -> float:
    """Return the bytes of the adapter in float32, its gradient, Adam's two moments, and two published copies."""
    return facts.adapter_parameters * 4 * (1 + 1 + 2 + _LIVE_VERSIONS)


def merged(facts: ModelFacts) -> float:
    """Return the bytes of the engine's merged copies of the adapted layers; half precision is never merged."""
    size = facts.linear_parameters * facts.dtype_bytes
    return _LIVE_VERSIONS * size if facts.dtype_bytes == 4 and size <= MERGE_LIMIT else 0


def cache(model: JsonObject, *, slots: int, columns: int, dtype_bytes: int) -> float:
    """Return the bytes of keys and values of `columns` tokens in each of `slots` sequences."""
    return float(slots * columns * cache_column(model, dtype_bytes))


def cache_columns(longest: int) -> int:
    """Return the columns that an episode of this length takes in the cache: whole blocks."""
    return blocks_for(longest) * BLOCK


def floor(facts: ModelFacts, engine: EngineConfig, prompt_tokens: int) -> float:
    """Return the bytes that weights and the embedded engine's cache take before a token is sampled."""
    if engine.kind != "embedded":
        return weights(facts) * (2 if engine.kind == "vllm" else 1)
    columns = prompt_tokens or 1
    return weights(facts) + cache(
        facts.config, slots=engine.max_sequences, columns=columns, dtype_bytes=facts.dtype_bytes
    )


def learner(facts: ModelFacts, config: LearnerConfig, *, tokens: int, trained: int, how: ModelConfig) -> float:
    """Return the bytes of the learner's largest microbatch."""
    kept = activations(
        facts.config,
        tokens=min(tokens, config.tokens_per_microbatch),
        rank=how.lora.rank,
        dtype_bytes=facts.dtype_bytes,
        checkpointing=how.gradient_checkpointing,
    )
    return kept + head(int(facts.config["vocab_size"]), trained)
