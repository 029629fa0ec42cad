"""Parts 8 and 9 put together: what was measured goes in, what the run will take comes out, beside what is there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from agentgrpo import causal_lm
from agentgrpo.blocking import run_blocking
from agentgrpo.doctor import duration, machine, memory, vllm_memory
from agentgrpo.doctor.duration import say
from agentgrpo.doctor.memory import Amount, exactly
from agentgrpo.doctor.report import Finding, fail, need, ok, warn
from agentgrpo.doctor.rollout import agreement
from agentgrpo.doctor.subject import Subject
from agentgrpo.doctor.train_step import expert_shape, measure_step, say_something
from agentgrpo.engines.card import plan_card
from agentgrpo.engines.vllm_options import cpu_cache_bytes

_TIGHT = 0.85
_BAR = 24
_PROCESS = (30e6, 150e6)  # what a Python process of its own takes, bare and with its libraries


def check_memory(subject: Subject) -> Iterator[Finding]:
    """Forecast the peak of memory, by part; on a GPU, the host's and the device's apart."""
    host, device = host_parts(subject), model_parts(subject)
    limit, is_vllm = machine.memory().limit, subject.config.engine.kind == "vllm"
    if causal_lm.pick_device(subject.config.model.device).type == "cuda":
        yield _compare(subject, host, limit, "peak")
        total = torch.cuda.mem_get_info()[1]
        yield from vllm_memory.check_card(subject, vllm_memory.needs_of(subject, total), total) if is_vllm else ()
        # vLLM takes what is left on purpose: a full card is not a tight one.
        yield _compare(subject, _on_card(subject, device, total), total, "on the GPU", tight=1.0 if is_vllm else _TIGHT)
    else:
        yield _compare(subject, [*host, *device, *(vllm_memory.on_cpu(subject) if is_vllm else ())], limit, "peak")
        yield from vllm_memory.check_room(subject, cpu_cache_bytes(subject.config.engine)) if is_vllm else ()


def _on_card(subject: Subject, learner: list[Amount], total: int) -> list[Amount]:
    """Return what is on the card at the peak, vLLM's part included."""
    if subject.config.engine.kind != "vllm":
        return learner
    needs = vllm_memory.needs_of(subject, total)
    plan = plan_card(needs, total, may_sleep=not subject.config.train.max_staleness)
    return learner if plan is None else vllm_memory.on_card(needs, plan, learner)


def _compare(subject: Subject, parts: Sequence[Amount], limit: int, what: str, *, tight: float = _TIGHT) -> Finding:
    low, high = sum(a.low for a in parts), sum(a.high for a in parts)
    values = {
        "low": low,
        "middle": (low + high) / 2,
        "high": high,
        "limit": limit,
        "parts": {a.name: a.middle for a in parts},
    }
    amount = machine.size(high) if high - low < 0.1 * high else f"{machine.size(low)} to {machine.size(high)}"
    text = f"{what} about {amount} of {machine.size(limit)}"
    rows = [(a.name, f"{machine.size(a.middle):>8}  {bar(a.middle, high)}") for a in parts if a.middle > 1e6]
    if low > limit:
        return fail(text, _less(subject, parts, limit), values, rows=rows)
    if high > tight * limit:
        return warn(f"{text}: that is tight", _less(subject, parts, limit), values, rows=rows)
    return ok(text, values, rows=rows)


def host_parts(subject: Subject) -> list[Amount]:
    """Return what the program and what it keeps besides the model take."""
    parts = [exactly("program and libraries", subject.base_bytes), *_processes(subject)]
    warm, settings = subject.warm_start, subject.config.warm_start
    if warm is not None and settings is not None:
        # Freed after the warm start, but the allocator keeps most of it.
        parts.append(exactly("warm start: demonstrations", 2 * settings.sft.episodes * warm.demonstration_bytes))
        parts.append(exactly("warm start: supervised steps", warm.step_bytes))
    return parts


def model_parts(subject: Subject) -> list[Amount]:
    """Return what the model, an engine that shares it, and the learner take at the peak, wherever the model is."""
    facts, config = need(subject.model, "needs the model"), subject.config
    return [
        exactly("base weights", memory.weights(facts)),
        exactly("adapter, gradient, optimizer", memory.adapter(facts)),
        *(_embedded(subject) if config.engine.kind == "embedded" else ()),
        _learner(subject),
    ]


def _embedded(subject: Subject) -> list[Amount]:
    facts, config, step = need(subject.model, "needs the model"), subject.config, subject.step
    prompt, most = subject.longest_prompt or 1, facts.config.get("max_position_embeddings") or 2**20
    context = min(config.engine.context_length or most, most)
    longest = step.longest if step else min(context, prompt + config.rollout.max_tokens)
    columns = memory.cache_columns(longest)
    slots = config.engine.max_sequences
    cache = memory.cache(facts.config, slots=slots, columns=columns, dtype_bytes=facts.dtype_bytes)
    return [
        exactly("engine: merged weights", memory.merged(facts)),
        exactly(f"engine: KV cache, {slots} x {columns}", cache),
    ]


def _processes(subject: Subject) -> list[Amount]:
    config = subject.config.rollout
    if subject.source is None or subject.source.isolation != "process":
        return []
    count = min(config.concurrency, config.tasks_per_step * config.group_size)
    return [Amount(name=f"{count} environment processes", low=count * _PROCESS[0], high=count * _PROCESS[1])]


def _learner(subject: Subject) -> Amount:
    facts, config, step = need(subject.model, "needs the model"), subject.config, subject.step
    if step is None:
        budget = config.learner.tokens_per_microbatch
        size = memory.learner(facts, config.learner, tokens=budget, trained=budget // 4, how=config.model)
        return Amount(name="learner: a full microbatch", low=0.2 * size, high=size)
    name = f"learner: {step.batch_tokens} tokens at once"
    size = memory.learner(facts, config.learner, tokens=step.batch_tokens, trained=step.batch_trained, how=config.model)
    return exactly(name, max(size, step.learn_bytes or 0))  # what is measured lacks what was free already


def _less(subject: Subject, parts: Sequence[Amount], limit: int) -> str:
    """Return what to lower: the part that takes most."""
    largest = max(parts, key=lambda a: a.middle).name
    if largest.startswith("vLLM: KV"):
        return "lower engine.vllm.kv_cache_gib, or remove it"
    if "KV" in largest:
        facts, config = need(subject.model, "needs the model"), subject.config
        rest = sum(a.middle for a in parts if "KV" not in a.name)
        each = max(1.0, max(a.middle for a in parts if "KV" in a.name) / config.engine.max_sequences)
        slots = max(1, int((0.8 * limit - rest) / each))
        half = "" if facts.dtype_bytes < 4 else ', or dtype = "bfloat16"'
        return f"set engine.max_sequences = {slots} (and rollout.concurrency to the same), or a shorter context{half}"
    if "learner" in largest:
        return "lower learner.tokens_per_microbatch, or set model.gradient_checkpointing = true"
    return 'take a smaller model, or dtype = "bfloat16" ([model])'


def check_time(subject: Subject, start: float) -> Iterator[Finding]:
    """Forecast how long the run takes, by stage, and how many tokens it samples."""
    step = need(subject.step, "needs a measured train step")
    config, heldout = subject.config, len(subject.heldout_tasks)
    found = duration.stages(config, step, warm=subject.warm_start, expert=subject.expert, heldout=heldout, start=start)
    low, middle, high = duration.total(found, config.train.max_hours)
    count = duration.episodes(config, heldout)
    rows = [(s.name, f"{_range(s.low, s.high):>18}  {bar(s.middle, middle)}") for s in found]
    yield ok(
        f"about {say(middle)} for the whole run, between {say(low)} and {say(high)}",
        {"low": low, "middle": middle, "high": high, "stages": {s.name: s.middle for s in found}},
        rows=rows,
    )
    yield ok(
        f"{count} episodes of {step.shape.turns:.1f} turns, {count * step.shape.sampled:,.0f} sampled tokens, "
        f"{step.sampled / step.rollout_seconds:,.0f} a second",
        {"episodes": count, "tokens": count * step.shape.sampled},
    )
    yield from _why(subject, middle, is_wide=high - low > 0.3 * middle)


def measure(subject: Subject) -> Iterator[Finding]:
    """Measure a train step and say what it was."""
    subject.step = step = measure_step(subject)
    subject.expert = expert_shape(subject)
    played = "played from demonstrations" if subject.warm_start else "sampled"
    whole = "one train step" if step.is_whole else f"{step.episodes} episodes of a train step"
    yield ok(
        f"{whole}: rollout {step.rollout_seconds:.1f} s, learning {step.learn_seconds:.1f} s, "
        f"publishing {step.publish_seconds:.2f} s, {played}",
        {"rollout": step.rollout_seconds, "learn": step.learn_seconds, "publish": step.publish_seconds},
    )
    bench, group = need(subject.bench, "needs the engine"), need(subject.group, "needs a group of episodes")
    prompt = next(span.token_ids for span in group[0].spans)
    yield agreement(bench, [run_blocking(say_something(bench, prompt))], "the adapter it published")


def bar(part: float, whole: float) -> str:
    """Return a bar as long as a part's share of the whole."""
    return "█" * round(_BAR * part / whole) if whole else ""


def _range(low: float, high: float) -> str:
    return say(high) if high - low < 0.1 * high else f"{say(low)} to {say(high)}"


def _why(subject: Subject, seconds: float, *, is_wide: bool) -> Iterator[Finding]:
    if is_wide:
        learned = "groups become flat and are not trained on" if subject.config.learner.drop_zero_variance else ""
        known = "" if subject.expert else "no oracle shows how long a good episode is"
        why = "; ".join(filter(None, (learned, known))) or "episodes change as the agent learns"
        yield ok(f"a range, because {why}: how soon depends on how fast it learns")
    step = need(subject.step, "needs a measured train step")
    lost = 1 - step.rollout_seconds / step.rollout_wall
    if lost > 0.15:
        yield warn(
            f"alone, that is; other programs held the cores {lost:.0%} of the time: so {say(seconds / (1 - lost))}"
        )
