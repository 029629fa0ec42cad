"""One card for a learner and vLLM: both resident when they fit, else vLLM asleep while the learner works.

Pure: sizes in bytes in, a plan out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from agentgrpo.config.run import Config
from agentgrpo.sizes import activations, cache_column, head
from agentgrpo.types import JsonObject

RESERVE = 0.06  # of the card: two CUDA contexts, graphs, and what allocators cannot use
_ENOUGH = 0.25  # of the cache wanted: with less, giving memory back for the learning is the faster way
_GIB = 1 << 30
_WORKSPACE = 1.5 * _GIB  # vLLM's own activations and graphs
_OPTIMIZER_COPIES = 4  # the adapter in float32, its gradient, Adam's two moments
_TRAINED_SHARE = 4  # one token in so many is sampled, the others are prompts and tool results


@dataclass(frozen=True, slots=True, kw_only=True)
class CardNeeds:
    """What learner and vLLM need of a card, in bytes.

    `learner` is what it holds all the time: weights, adapter, optimizer; `step` what its largest microbatch takes
    beside that. `engine` is vLLM without its cache; `wanted` the cache of as many sequences as configured, all at full
    length; `least` that of one.
    """

    learner: float
    step: float
    engine: float
    wanted: float
    least: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CardPlan:
    """How they share it.

    `cache` is what is left for vLLM's keys and values, `utilization` the share of the card vLLM may take in all.
    """

    mode: Literal["both", "sleep"]
    cache: float
    utilization: float


def card_needs(
    config: Config,
    model: JsonObject,
    *,
    weights: float,
    adapter_parameters: int,
    dtype_bytes: int,
    context_length: int,
    versions: int,
) -> CardNeeds:
    """Return what a run needs of its card.

    Args:
        config: The run's.
        model: The model's config.json.
        weights: Bytes of the base weights, once.
        adapter_parameters: Numbers in an adapter.
        dtype_bytes: Bytes of a number of the model.
        context_length: Most tokens of a sequence.
        versions: Adapters vLLM holds at once.
    """
    vllm, tokens = config.engine.vllm, config.learner.tokens_per_microbatch
    rank, checkpointing = config.model.lora.rank, config.model.gradient_checkpointing
    kept = activations(model, tokens=tokens, rank=rank, dtype_bytes=dtype_bytes, checkpointing=checkpointing)
    loaded = weights + versions * adapter_parameters * dtype_bytes
    one = context_length * cache_column(model, dtype_bytes) / vllm.tensor_parallel_size
    given = vllm.kv_cache_gib * _GIB if vllm.kv_cache_gib is not None else None
    return CardNeeds(
        learner=weights + adapter_parameters * 4 * _OPTIMIZER_COPIES,
        step=kept + head(int(model["vocab_size"]), tokens // _TRAINED_SHARE),
        engine=loaded / vllm.tensor_parallel_size + _WORKSPACE,
        wanted=config.engine.max_sequences * one if given is None else given,
        least=one if given is None else given,
    )


def at_share(needs: CardNeeds, share: float | None, total: float) -> CardNeeds:
    """Return the needs where vLLM is given a share of the card (`engine.vllm.gpu_memory_utilization`), if it is."""
    if share is None:
        return needs
    cache = max(needs.least, share * total - needs.engine)
    return replace(needs, wanted=cache, least=cache)


def plan_card(needs: CardNeeds, total: float, *, may_sleep: bool = True) -> CardPlan | None:
    """Return how learner and vLLM share a card of `total` bytes; None when they do not fit it, even in turns.

    `may_sleep` says whether rollouts ever wait for the learner; asynchronous training never lets vLLM sleep.
    """
    usable = (1 - RESERVE) * total
    room = usable - needs.learner - needs.engine
    beside = min(needs.wanted, room - needs.step)
    if beside >= (max(needs.least, _ENOUGH * needs.wanted) if may_sleep else needs.least):
        return _plan("both", beside, needs, total)
    if may_sleep and room >= needs.least and needs.learner + needs.step <= usable:
        return _plan("sleep", min(needs.wanted, room), needs, total)
    return None


def _plan(mode: Literal["both", "sleep"], cache: float, needs: CardNeeds, total: float) -> CardPlan:
    return CardPlan(mode=mode, cache=cache, utilization=round((needs.engine + cache) / total + RESERVE / 2, 3))


def say_no(needs: CardNeeds, total: float, *, may_sleep: bool) -> str:
    """Return why a run does not fit its card, and what to do."""
    parts = {
        "the learner": needs.learner,
        "its largest microbatch": needs.step,
        "vLLM": needs.engine,
        "the cache of one sequence": needs.least,
    }
    said = ", ".join(f"{name} {size / _GIB:.1f} GiB" for name, size in parts.items())
    turns = "even in turns" if may_sleep else "both at once, as train.max_staleness asks"
    return (
        f"learner and vLLM do not fit a card of {total / _GIB:.0f} GiB {turns}: {said}. Lower "
        "learner.tokens_per_microbatch or engine.context_length, set model.gradient_checkpointing = true, or take a "
        "smaller or quantized model"
    )
