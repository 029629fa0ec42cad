"""Where the groups of a train step come from: run for it and waited for, or taken from those that run all the time."""

from __future__ import annotations

from collections.abc import Sequence

from agentgrpo.config.run import Config
from agentgrpo.rollout.group import GroupResult
from agentgrpo.rollout.pacing import Pacing
from agentgrpo.rollout.stream import GroupStream
from agentgrpo.run.state import RunState, keeper, store
from agentgrpo.run.summary import cut_metrics, staleness_metrics
from agentgrpo.types import Sampling, Trajectory


async def gather(state: RunState, step: int) -> list[GroupResult]:
    """Return the groups of a train step."""
    results = await (_roll_out(state, step) if state.stream is None else _take(state, state.stream, step))
    for result in results:
        state.progress.count_group(result)
    return results


async def _roll_out(state: RunState, step: int) -> list[GroupResult]:
    """Run the groups of a step under the policy of this moment, and wait for all of them."""
    config, tasks = state.config.rollout, state.sampler.next(state.config.rollout.tasks_per_step)
    state.manager.activity.enter("rollout")
    with state.reporter.progress(f"step {step} rollout", len(tasks) * config.group_size) as advance:
        return await state.manager.rollout(
            tasks,
            policy=state.policy,
            phase="train",
            step=step,
            group_size=config.group_size,
            sampling=_sampling(state.config),
            on_episode=keeper(state, advance),
            finished=state.finished,
        )


async def _take(state: RunState, stream: GroupStream, step: int) -> list[GroupResult]:
    """Take the groups of a step from those that run all the time; their episodes count from now on."""
    state.manager.activity.enter("rollout")
    with state.reporter.progress(f"step {step} rollout", state.config.rollout.tasks_per_step) as advance:
        results = await stream.take(advance)
    for trajectory in (t for result in results for t in result.trajectories):
        state.progress.count(trajectory)
    return results


def open_stream(state: RunState) -> GroupStream:
    """Return the groups that run all the time; those of a run that was stopped go on."""
    config = state.config
    pacing = Pacing(
        batch=config.rollout.tasks_per_step,
        group_size=config.rollout.group_size,
        max_staleness=config.train.max_staleness,
        steps=config.train.steps,
    )

    async def on_episode(trajectory: Trajectory) -> None:
        await store(state, trajectory)

    stream = GroupStream(
        state.manager,
        pacing,
        state.sampler,
        sampling=_sampling(config),
        on_episode=on_episode,
        finished=state.finished,
    )
    if state.progress.stream is not None:
        stream.restore(state.progress.stream)
    return stream


def _sampling(config: Config) -> Sampling:
    return Sampling(max_tokens=config.rollout.max_turn_tokens, temperature=config.rollout.temperature)


def pace_metrics(state: RunState, results: Sequence[GroupResult], version: int) -> dict[str, float]:
    """Return what waiting, deadlines and learning beside the rollout did to a step; nothing where there is none."""
    config, metrics = state.config, dict[str, float]()
    if state.stream is not None:
        metrics |= staleness_metrics([r.group for r in results], version) | state.stream.metrics
    if state.stream is not None or config.rollout.group_seconds is not None:
        metrics |= cut_metrics(results, config.rollout.min_survivors)
    return metrics
