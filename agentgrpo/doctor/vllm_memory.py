"""Part 8 where vLLM generates in this process: what it takes, and who holds the card when."""

from __future__ import annotations

from collections.abc import Iterator

from agentgrpo.doctor import machine
from agentgrpo.doctor.memory import Amount, exactly, weights
from agentgrpo.doctor.report import Finding, fail, need, ok, warn
from agentgrpo.doctor.subject import Subject
from agentgrpo.engines.card import CardNeeds, CardPlan, at_share, card_needs, plan_card, say_no
from agentgrpo.engines.vllm_options import SPARE_VERSIONS, cpu_cache_bytes
from agentgrpo.run.engine_kinds import live_versions
from agentgrpo.sizes import cache_column

_DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_PROCESSES = (1.2e9, 2.0e9)  # vLLM's scheduler and its worker, as programs, on the CPU


def needs_of(subject: Subject, total: float) -> CardNeeds:
    """Return what learner and vLLM need of a card of `total` bytes, from the model's files."""
    facts, config = need(subject.model, "needs the model"), subject.config
    needs = card_needs(
        config,
        facts.config,
        weights=weights(facts),
        adapter_parameters=facts.adapter_parameters,
        dtype_bytes=facts.dtype_bytes,
        context_length=_context(subject),
        versions=live_versions(config) + SPARE_VERSIONS,
    )
    return at_share(needs, config.engine.vllm.gpu_memory_utilization, total)


def on_cpu(subject: Subject) -> list[Amount]:
    """Return what vLLM takes of the machine's memory, all of it beside the learner."""
    facts = need(subject.model, "needs the model")
    cache = cpu_cache_bytes(subject.config.engine)
    return [
        Amount(name="vLLM: two processes", low=_PROCESSES[0], high=_PROCESSES[1]),
        exactly("vLLM: base weights", weights(facts)),
        Amount(name="vLLM: KV cache", low=0.1 * cache, high=cache),  # a page counts once it was written
    ]


def on_card(needs: CardNeeds, plan: CardPlan, learner: list[Amount]) -> list[Amount]:
    """Return what is on the card at the peak: all of it, or the larger of the two that take turns."""
    engine = [exactly("vLLM: weights, adapters, graphs", needs.engine), exactly("vLLM: KV cache", plan.cache)]
    if plan.mode == "both":
        return [*learner, *engine]
    *resident, step = learner
    awake = sum(amount.high for amount in engine)
    return [*resident, *([step] if step.high > awake else engine)]


def check_card(subject: Subject, needs: CardNeeds, total: float) -> Iterator[Finding]:
    """Say how learner and vLLM share the card, and how many episodes the cache holds."""
    may_sleep = not subject.config.train.max_staleness
    plan = plan_card(needs, total, may_sleep=may_sleep)
    if plan is None:
        yield fail(say_no(needs, total, may_sleep=may_sleep))
        return
    said = {
        "both": "learner and vLLM both stay on the card",
        "sleep": "vLLM sleeps while the learner works: both do not fit the card at once",
    }[plan.mode]
    yield ok(f"{said} (gpu_memory_utilization {plan.utilization:g})", {"mode": plan.mode, "cache": plan.cache})
    yield from check_room(subject, plan.cache)


def check_room(subject: Subject, cache: float) -> Iterator[Finding]:
    """Find episodes that would wait for room in the cache."""
    facts, context = need(subject.model, "needs the model"), _context(subject)
    own, rollout = subject.config.engine.vllm.dtype, subject.config.rollout
    column = cache_column(facts.config, facts.dtype_bytes if own is None else _DTYPE_BYTES[own])
    held = int(cache / (context * column))
    wanted = min(rollout.concurrency, rollout.tasks_per_step * rollout.group_size)
    text = f"the cache of {machine.size(cache)} holds {held} episodes of {context} tokens"
    if held < wanted:
        yield warn(
            f"{text}, {wanted} are to run at once: the others wait",
            f"set [engine] context_length to what episodes need, or rollout.concurrency = {max(1, held)}",
            {"held": held},
        )
    else:
        yield ok(text, {"held": held})


def _context(subject: Subject) -> int:
    facts = need(subject.model, "needs the model")
    most = int(facts.config.get("max_position_embeddings") or 2**20)
    return min(subject.config.engine.context_length or most, most)
