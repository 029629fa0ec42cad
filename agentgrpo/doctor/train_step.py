"""One train step, measured: rollout, store, learn, publish, as the run does them, in a folder of the doctor's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from agentgrpo.blocking import run_blocking
from agentgrpo.doctor import machine
from agentgrpo.doctor.environment import need_source
from agentgrpo.doctor.report import need
from agentgrpo.doctor.rollout import limited, sampling
from agentgrpo.doctor.script import ListeningEngine, write_scripts
from agentgrpo.doctor.subject import Shape, StepCost, Subject
from agentgrpo.engines import Engine
from agentgrpo.errors import EnvError
from agentgrpo.learner.batch import Row, pack
from agentgrpo.learner.step import LearnResult
from agentgrpo.rollout.group import GroupResult
from agentgrpo.rollout.manager import RolloutManager
from agentgrpo.run.workbench import Workbench
from agentgrpo.store.episodes import EpisodeStore
from agentgrpo.types import EpisodeKey, Group, Policy, Sampling, Task, Trajectory
from agentgrpo.types import Sequence as TokenSequence
from agentgrpo.warm_start.demonstrations import demonstrations

_STEP_SECONDS = 20.0  # a whole train step is run when it should take less than this, else some groups of it
_EXPERT_EPISODES = 24
_SAID = 32  # tokens sampled from the version published after the step


@dataclass(frozen=True, slots=True)
class _Rollout:
    results: list[GroupResult]
    seconds: float
    wall: float
    disk_bytes: int


def measure_step(subject: Subject) -> StepCost:
    """Run one train step, or as many groups of it as there is time for, and return what it cost."""
    bench = need(subject.bench, "needs the engine")
    need(subject.group, "needs a group of episodes")
    tasks = _tasks(subject)
    engine = _engine(subject, bench, tasks)
    rollout = run_blocking(_roll_out(subject, bench, engine, tasks))
    trajectories = [t for result in rollout.results for t in result.trajectories]
    groups = [r.group for r in rollout.results if len(r.group.trajectories) >= 2]
    need(groups or None, "needs groups of at least two scored episodes")
    with machine.watch_peak() as peak:
        learned, learn_seconds, card_bytes = run_blocking(_learn(bench, groups))
    watch = machine.Stopwatch()
    run_blocking(_publish(bench))
    publish_seconds = watch.seconds
    trained = {d.key for d in learned.decisions if d.trains}
    largest = _largest_batch(bench, groups, trained)
    return StepCost(
        episodes=len(trajectories),
        rollout_seconds=rollout.seconds,
        rollout_wall=rollout.wall,
        learn_seconds=learn_seconds,
        publish_seconds=publish_seconds,
        shape=shape(trajectories),
        longest=max(t.token_count for t in trajectories),
        learn_bytes=(peak.added if peak.is_own else None) if card_bytes is None else card_bytes,
        disk_bytes=rollout.disk_bytes / len(trajectories),
        sampled=sum(t.sampled_count for t in trajectories),
        is_whole=len(tasks) == subject.config.rollout.tasks_per_step,
        batch_tokens=largest[0],
        batch_trained=largest[1],
    )


def shape(trajectories: Sequence[Trajectory]) -> Shape:
    """Return what an episode is on average."""
    count = len(trajectories)
    return Shape(
        turns=sum(len(t.turns) or 1 for t in trajectories) / count,
        sampled=sum(t.sampled_count for t in trajectories) / count,
        tokens=sum(t.token_count for t in trajectories) / count,
    )


def expert_shape(subject: Subject) -> Shape | None:
    """Return what an episode of the environment's oracle is on average; None when it has no oracle."""
    chat, source = need(subject.chat, "needs the chat template"), need_source(subject)
    try:
        played = list(
            demonstrations(source, subject.train_tasks, count=_EXPERT_EPISODES, quality=1.0, seed=subject.config.seed)
        )
    except EnvError:
        return None
    sampled = [sum(len(chat.completion(action)) for action, _ in p.turns) for p in played]
    turns = [len(p.turns) for p in played]
    return Shape(turns=sum(turns) / len(turns), sampled=sum(sampled) / len(sampled), tokens=0.0)


def _tasks(subject: Subject) -> Sequence[Task]:
    wanted = subject.config.rollout.tasks_per_step
    groups = wanted if subject.group_seconds * wanted <= _STEP_SECONDS * 4 else 1
    if groups == 1:
        groups = max(1, min(wanted, int(_STEP_SECONDS // max(subject.group_seconds, 1e-3))))
    return subject.train_tasks[:groups]


def _engine(subject: Subject, bench: Workbench, tasks: Sequence[Task]) -> Engine:
    """Return the engine, or for a throw-away model one that plays demonstrations of the warm start's quality."""
    settings = subject.config.warm_start
    if subject.warm_start is None or settings is None:
        return bench.engine
    samples = subject.config.rollout.group_size
    scripts = write_scripts(
        bench.source, bench.chat, tasks, samples=samples, quality=settings.sft.quality, seed=subject.config.seed
    )
    return ListeningEngine(bench.engine, scripts)


async def _roll_out(subject: Subject, bench: Workbench, engine: Engine, tasks: Sequence[Task]) -> _Rollout:
    config = limited(bench.config)
    store = EpisodeStore(subject.folder / "episodes.sqlite")

    async def keep(trajectory: Trajectory) -> None:
        await store.add([trajectory])

    try:
        async with RolloutManager(bench.source, bench.chat, engine, config.rollout, seed=config.seed) as manager:
            watch = machine.Stopwatch()
            results = await manager.rollout(
                tasks,
                policy=Policy(),
                phase="train",
                step=1,
                group_size=config.rollout.group_size,
                sampling=sampling(config),
                on_episode=keep,
            )
            seconds, wall = watch.seconds, watch.wall
    finally:
        store.close()
    return _Rollout(results, seconds, wall, store.path.stat().st_size)


async def _learn(bench: Workbench, groups: Sequence[Group]) -> tuple[LearnResult, float, int | None]:
    """Make the train step as a run does, with the memory an engine beside it gives back for it.

    Returns:
        What it did, its seconds, and the most bytes it added on its card; None where it has none.
    """
    device = bench.policy.device
    async with bench.engine.stand_by():
        before = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        watch = machine.Stopwatch()
        learned = bench.learner.step(groups)
        seconds = watch.seconds
        return learned, seconds, torch.cuda.max_memory_allocated(device) - before if device.type == "cuda" else None


async def say_something(bench: Workbench, prompt_ids: Sequence[int]) -> TokenSequence:
    """Return a few tokens sampled from the version just published, as a training row."""
    room = min(_SAID, bench.engine.context_length - len(prompt_ids))
    asked = Sampling(max_tokens=room, seed=bench.config.seed, temperature=bench.learner.temperature)
    said = await bench.engine.generate(prompt_ids, asked, Policy(version=1))
    count, silent = len(said.token_ids), len(prompt_ids)
    return TokenSequence(
        token_ids=(*prompt_ids, *said.token_ids),
        loss_mask=(0,) * silent + (1,) * count,
        rollout_logprobs=(0.0,) * silent + said.logprobs,
        turns=(0,) * (silent + count),
    )


async def _publish(bench: Workbench) -> None:
    await bench.publish(bench.policy.adapter(), Policy(version=1))
    await bench.engine.retire(Policy())


def _largest_batch(bench: Workbench, groups: Sequence[Group], trained: set[EpisodeKey]) -> tuple[int, int]:
    """Return the tokens the largest microbatch computes, and those it trains."""
    rows = [
        Row(sequence=sequence, advantage=0.0, episode=index)
        for index, trajectory in enumerate(t for g in groups for t in g.trajectories if t.key in trained)
        for sequence in trajectory.sequences()
    ]
    budget, is_shared = bench.config.learner.tokens_per_microbatch, bench.policy.shares_prefix
    batches = pack(rows, token_budget=budget, share_prefix=is_shared) if rows else []
    return max(((batch.token_count, len(batch.target_N)) for batch in batches), default=(0, 0))
