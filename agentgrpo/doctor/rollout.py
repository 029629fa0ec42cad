"""Parts 6 and 7: one real group through the real engine: every token accounted for, engine and learner agree."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence

import torch

from agentgrpo.blocking import run_blocking
from agentgrpo.config.run import Config
from agentgrpo.doctor import machine, memory
from agentgrpo.doctor.audit import audit, differences
from agentgrpo.doctor.report import Finding, Missing, fail, need, ok, warn
from agentgrpo.doctor.script import ListeningEngine
from agentgrpo.doctor.subject import Subject
from agentgrpo.learner.batch import Row, pack
from agentgrpo.rollout.group import GroupResult
from agentgrpo.rollout.manager import RolloutManager
from agentgrpo.run.engine_kinds import tolerance
from agentgrpo.run.workbench import Workbench, assemble, set_threads
from agentgrpo.types import Policy, Sampling, Task, Trajectory
from agentgrpo.types import Sequence as TokenSequence

EPISODE_SECONDS = 30.0  # an episode of the examination is cut off here


def check_rollout(subject: Subject) -> Iterator[Finding]:
    """Run one group and account for every token of it."""
    bench = open_bench(subject)
    yield from too_many(subject.config, bench.engine.context_length)
    engine = ListeningEngine(bench.engine)
    clock = time.perf_counter()
    (result,) = run_blocking(_first_group(bench, engine, subject.train_tasks[:1]))
    subject.group_seconds = time.perf_counter() - clock
    yield from _ends(result)
    if not result.group.trajectories:
        return
    subject.group = result.group.trajectories
    problems = [p for t in result.trajectories for p in audit(t, [c for c in engine.calls if c.session == str(t.key)])]
    if problems:
        yield fail(f"{len(problems)} tokens or spans are not accounted for: {problems[0]}", "this is a bug: report it")
    else:
        yield ok(_accounted(result.trajectories), {"forks": sum(t.forks for t in result.trajectories)})
    yield from _rewards(subject, result)


def check_agreement(subject: Subject) -> Iterator[Finding]:
    """Compare the engine's logprobs of the group with the learner's."""
    bench, group = need(subject.bench, "needs the engine"), need(subject.group, "needs a group of episodes")
    yield agreement(
        bench,
        [s for trajectory in group for s in trajectory.sequences()],
        f"{sum(t.sampled_count for t in group)} tokens",
    )
    reasons = bench.inexact()
    yield ok(f"a second run may differ in its numbers: {reasons[0]}" if reasons else "a second run repeats every byte")


def open_bench(subject: Subject) -> Workbench:
    """Put engine, policy and learner together, on the model that is there or stands in."""
    path = need(subject.model_path, "needs the model")
    source = need(subject.source, "needs the environment")
    need(subject.train_tasks or None, "needs training tasks")
    need(subject.chat, "needs the chat template")
    facts = need(subject.model if subject.is_usable else None, "needs a model that fits this machine and this engine")
    config = subject.config.model_copy(update={"model": subject.config.model.model_copy(update={"path": str(path)})})
    limit = machine.memory().limit
    floor = memory.floor(facts, config.engine, subject.longest_prompt or 0)
    if floor > 0.9 * limit and not torch.cuda.is_available():
        raise Missing(f"weights and cache would take {machine.size(floor)} of {machine.size(limit)}: see memory")
    set_threads(config)
    subject.bench = assemble(config, source, subject.train_tasks, subject.heldout_tasks)
    return subject.bench


def limited(config: Config) -> Config:
    """Return the config with episodes cut off after a while, so that an examination ends."""
    seconds = min(EPISODE_SECONDS, config.rollout.episode_seconds)
    rollout = config.rollout.model_copy(update={"episode_seconds": seconds, "retries": 0})
    return config.model_copy(update={"rollout": rollout})


def sampling(config: Config) -> Sampling:
    """Return how a train step samples."""
    return Sampling(max_tokens=config.rollout.max_turn_tokens, temperature=config.rollout.temperature)


def logprobs_of(bench: Workbench, sequences: Sequence[TokenSequence]) -> tuple[list[float], list[float]]:
    """Return the engine's and the learner's logprobs of every trained token."""
    rows = [Row(sequence=sequence, advantage=0.0, episode=index) for index, sequence in enumerate(sequences)]
    engine: list[float] = []
    learner: list[float] = []
    budget, is_shared = bench.config.learner.tokens_per_microbatch, bench.policy.shares_prefix
    with torch.no_grad():
        for batch in pack(rows, token_budget=budget, share_prefix=is_shared) if rows else ():
            here = batch.to(bench.policy.device)
            engine += batch.behaviour_N.tolist()
            learner += bench.policy.logprobs(here, temperature=bench.learner.temperature)[0].tolist()
    return engine, learner


def agreement(bench: Workbench, sequences: Sequence[TokenSequence], what: str) -> Finding:
    """Find whether engine and learner are the same model, by the logprobs of these tokens."""
    engine, learner = logprobs_of(bench, sequences)
    if not engine:
        raise Missing("needs sampled tokens: no episode has any")
    most, mean = differences(engine, learner)
    dtype, allowed = bench.policy.causal_lm.dtype, tolerance(bench.config, bench.policy.causal_lm)
    text = f"engine and learner, {what}: {mean:.0e} apart on average, {most:.0e} at most"
    values = {"tokens": len(engine), "max": most, "mean": mean}
    if most > allowed.each or mean > allowed.mean:
        limits = f" ({str(dtype).removeprefix('torch.')} allows {allowed.mean:.0e} and {allowed.each:.0e})"
        return fail(text + limits, "do not train on this: they are two models. Report it with the model's name", values)
    return ok(text, values)


def too_many(config: Config, context: int) -> Iterator[Finding]:
    """Find episodes that would wait for each other."""
    wanted = min(config.rollout.concurrency, config.rollout.tasks_per_step * config.rollout.group_size)
    if wanted > config.engine.max_sequences:
        yield warn(
            f"{wanted} episodes run at once, the engine holds {config.engine.max_sequences} (context {context}): "
            "the others wait",
            "set rollout.concurrency and engine.max_sequences to the same number",
        )


async def _first_group(bench: Workbench, engine: ListeningEngine, tasks: Sequence[Task]) -> list[GroupResult]:
    config, policy = limited(bench.config), Policy()
    await bench.publish(bench.policy.adapter(), policy)
    scorer = bench.rewarding.without_judge() if bench.rewarding is not None else None
    manager = RolloutManager(bench.source, bench.chat, engine, config.rollout, seed=config.seed, scorer=scorer)
    async with manager:
        return await manager.rollout(
            tasks,
            policy=policy,
            phase="train",
            step=0,
            group_size=config.rollout.group_size,
            sampling=sampling(config),
        )


def _ends(result: GroupResult) -> Iterator[Finding]:
    ends = Counter(str(t.stop_reason) for t in result.trajectories)
    said = ", ".join(f"{count} {name}" for name, count in ends.most_common())
    if result.failed:
        failure = result.failed[0].failure
        where = f"{failure.boundary}: {failure.cause}" if failure else "cause unknown"
        yield fail(f"{len(result.failed)} of {len(result.trajectories)} episodes failed ({where})"[:400])
    elif ends.get("deadline"):
        yield warn(f"{said}: cut off after {EPISODE_SECONDS:g} s here; forecasts rest on what was done by then")
    elif ends.get("context_full", 0) * 2 > len(result.trajectories):
        yield warn(f"episodes: {said}", "raise [engine] context_length: most episodes do not fit")
    else:
        yield ok(f"one group of {len(result.trajectories)} episodes: {said}", dict(ends))


def _accounted(trajectories: Sequence[Trajectory]) -> str:
    sampled, tokens = sum(t.sampled_count for t in trajectories), sum(t.token_count for t in trajectories)
    forks = sum(t.forks for t in trajectories)
    forked = f"{forks} forks" if forks else "no fork"
    return f"{sampled} of {tokens} tokens sampled: mask 1 on exactly those, each trained once, {forked}"


def _rewards(subject: Subject, result: GroupResult) -> Iterator[Finding]:
    rewards = result.group.rewards
    mean, is_flat = sum(rewards) / len(rewards), len(set(rewards)) <= 1
    if subject.is_stand_in:
        return  # a model that learned nothing yet: its rewards say nothing
    if is_flat:
        yield warn(
            f"every episode of this group earned {mean:g}: it has nothing to learn from",
            "normal for some groups; if most are flat, the tasks are too hard or too easy for this model",
        )
    else:
        yield ok(f"rewards {min(rewards):g} to {max(rewards):g}, mean {mean:.2f}: there is a signal", {"mean": mean})
