"""Where a policy's groups come from: a model folder played now, an endpoint played now, or a run's recorded episodes.

It scores nothing and trains nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from agentgrpo.blocking import run_blocking
from agentgrpo.config.run import Config
from agentgrpo.endpoint.client import Endpoint
from agentgrpo.envstats.figures import Ended
from agentgrpo.errors import UserError
from agentgrpo.registry import EnvSource
from agentgrpo.rollout.manager import RolloutManager, Rollouts
from agentgrpo.rollout.text import TextRollouts
from agentgrpo.run.report import Reporter
from agentgrpo.run.workbench import Workbench, assemble, set_threads
from agentgrpo.store.reader import EpisodeReader
from agentgrpo.store.rows import EpisodeFilter, EpisodeRow
from agentgrpo.store.run import RunDirectory
from agentgrpo.types import Policy, Sampling, Task, Trajectory


def of_model(config: Config, source: EnvSource, tasks: Sequence[Task], reporter: Reporter) -> list[Ended]:
    """Let the model of a config play a group of each task, as a training rollout would, without an adapter."""
    set_threads(config)
    bench = assemble(config, source, tuple(tasks), ())
    return run_blocking(_play_model(bench, tasks, reporter))


def of_endpoint(
    config: Config, source: EnvSource, endpoint: Endpoint, tasks: Sequence[Task], reporter: Reporter
) -> list[Ended]:
    """Let a chat model behind an endpoint play a group of each task."""
    return run_blocking(_play_endpoint(config, source, endpoint, tasks, reporter))


def of_run(path: Path, groups: int) -> tuple[str, list[Ended]]:
    """Return what a run's newest training groups ended with, or those of an evaluation; and which they were.

    Raises:
        UserError: the run holds no scored episode.
    """
    run = RunDirectory.open(path)
    with EpisodeReader(run.episodes) as reader:
        steps = {
            phase: [s.step for s in reader.steps() if s.phase == phase and s.scored] for phase in ("train", "eval")
        }
        phase = "train" if steps["train"] else "eval"
        found: dict[str, list[EpisodeRow]] = {}
        used: list[int] = []
        for step in reversed(steps[phase]):
            if len(found) >= groups:
                break
            used.append(step)
            where = EpisodeFilter(phase="train" if phase == "train" else "eval", step=step)
            for row in reader.list(where, limit=reader.count(where)):
                if row.reward is not None:
                    found.setdefault(f"{row.step}/{row.task_id}", []).append(row)
    if not found:
        raise UserError(f"'{run.path}' holds no scored episode yet")
    several = f"steps {used[-1]} to {used[0]}" if len(used) > 1 else f"step {used[0]}"
    return f"{run.name}, {phase} {several}", [_of_row(row) for rows in found.values() for row in rows]


def _of_row(row: EpisodeRow) -> Ended:
    return Ended(
        group=f"{row.step}/{row.task_id}",
        reward=row.reward or 0.0,
        is_success=bool(row.success),
        turns=row.turns,
        calls=row.tool_calls,
        errors=row.tool_errors,
        sampled_tokens=row.sampled_tokens or None,
        tokens=row.tokens or None,
    )


async def _play_model(bench: Workbench, tasks: Sequence[Task], reporter: Reporter) -> list[Ended]:
    policy, config = Policy(name="stats"), bench.config
    try:
        await bench.publish(bench.policy.adapter(), policy)
        manager = RolloutManager(bench.source, bench.chat, bench.engine, config.rollout, seed=config.seed)
        return await _play(manager, config, policy, tasks, reporter)
    finally:
        await bench.engine.close()


async def _play_endpoint(
    config: Config, source: EnvSource, endpoint: Endpoint, tasks: Sequence[Task], reporter: Reporter
) -> list[Ended]:
    async with endpoint:
        rollouts = TextRollouts(source, endpoint, config.rollout, seed=config.seed)
        return await _play(rollouts, config, Policy(name=endpoint.model), tasks, reporter)


async def _play(
    rollouts: Rollouts, config: Config, policy: Policy, tasks: Sequence[Task], reporter: Reporter
) -> list[Ended]:
    size = config.rollout.group_size
    async with rollouts:
        with reporter.progress(f"{len(tasks)} groups of {size}", len(tasks) * size) as advance:

            async def count(trajectory: Trajectory) -> None:
                advance(int(trajectory.is_scored))

            results = await rollouts.rollout(
                tasks,
                policy=policy,
                phase="train",
                step=0,
                group_size=size,
                sampling=Sampling(max_tokens=1, temperature=config.rollout.temperature),
                on_episode=count,
            )
    return [ended for result in results for ended in _of_trajectories(result.group.trajectories)]


def _of_trajectories(trajectories: Sequence[Trajectory]) -> Iterator[Ended]:
    for trajectory in trajectories:
        told = trajectory.info.get("endpoint") or {}
        sampled = told.get("completion_tokens") if trajectory.is_text else trajectory.sampled_count
        yield Ended(
            group=trajectory.key.task_id,
            reward=trajectory.reward or 0.0,
            is_success=bool(trajectory.success),
            turns=len(trajectory.turns),
            calls=trajectory.call_count,
            errors=trajectory.error_count,
            sampled_tokens=sampled,
            tokens=None if trajectory.is_text else trajectory.token_count,
        )
