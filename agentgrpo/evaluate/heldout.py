"""Evaluation on held-out tasks: run episodes, say how many succeeded and how sure that is. It trains nothing."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from agentgrpo.config.run import EvalConfig
from agentgrpo.rollout.manager import OnEpisode, Rollouts
from agentgrpo.types import EpisodeKey, Policy, Sampling, Task, Trajectory


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What an evaluation found. `success` is None when no episode could be scored."""

    tasks: int
    episodes: int
    failed: int
    success: float | None
    low: float | None  # 95 % interval of the success rate
    high: float | None
    reward: float | None
    mean_turns: float | None
    environments: Mapping[str, float] = field(default_factory=dict)  # success in each, where there are several
    common: float | None = None  # success on the tasks that all evaluations of a run play, by which they compare

    def metrics(self) -> dict[str, float]:
        """Return what is known as flat metrics."""
        values = {
            "eval/success": self.success,
            "eval/success_low": self.low,
            "eval/success_high": self.high,
            "eval/reward": self.reward,
            "eval/turns": self.mean_turns,
            "eval/tasks": float(self.tasks),
            "eval/failed": float(self.failed),
            **{f"eval/success/{name}": success for name, success in self.environments.items()},
        }
        return {k: v for k, v in values.items() if v is not None}

    def __str__(self) -> str:
        if self.success is None:
            return f"no episode could be scored ({self.failed} failed)"
        interval = f"95 % interval {self.low:.3f}-{self.high:.3f}"
        each = "".join(f", {name} {success:.3f}" for name, success in self.environments.items())
        return f"{self.success:.3f} ({interval}, {self.episodes} episodes of {self.tasks} tasks{each})"


def wilson(successes: int, total: int, z: float = 1.959964) -> tuple[float, float]:
    """Return the Wilson score interval of a success rate (Wilson 1927): sound near 0 and 1, unlike the normal one."""
    rate = successes / total
    centre = rate + z * z / (2 * total)
    margin = z * math.sqrt(rate * (1 - rate) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    # Rounding may push a bound a hair past what is possible.
    return max(0.0, (centre - margin) / scale), min(1.0, (centre + margin) / scale)


def summarize(
    trajectories: Sequence[Trajectory], tasks: int, env_id: str | None = None, *, common: Collection[str] | None = None
) -> Evaluation:
    """Return the success rate and means over scored episodes; failed ones are counted, not scored.

    Args:
        trajectories: All episodes.
        tasks: How many tasks they are of.
        env_id: The run's environment; what was played in one of its parts is told apart. None: nothing is.
        common: Ids of the tasks that all evaluations of a run play; None: all of these.
    """
    scored = [t for t in trajectories if t.is_scored]
    failed = sum(not t.is_scored for t in trajectories)
    if not scored:
        return Evaluation(
            tasks=tasks, episodes=0, failed=failed, success=None, low=None, high=None, reward=None, mean_turns=None
        )
    wins = sum(bool(t.success) for t in scored)
    low, high = wilson(wins, len(scored))
    shared = [bool(t.success) for t in scored if common is None or t.key.task_id in common]
    return Evaluation(
        tasks=tasks,
        episodes=len(scored),
        failed=failed,
        success=wins / len(scored),
        low=low,
        high=high,
        reward=sum(t.reward or 0.0 for t in scored) / len(scored),
        mean_turns=sum(len(t.turns) for t in scored) / len(scored),
        environments={
            name: sum(bool(t.success) for t in part) / len(part) for name, part in by_part(scored, env_id).items()
        },
        common=sum(shared) / len(shared) if shared else None,
    )


def by_part(trajectories: Sequence[Trajectory], env_id: str | None) -> dict[str, list[Trajectory]]:
    """Return episodes by the part of a mixture of environments they were played in; nothing for a single one."""
    parts: dict[str, list[Trajectory]] = {}
    for trajectory in trajectories:
        if env_id is not None and trajectory.env_id != env_id:
            parts.setdefault(trajectory.env_id, []).append(trajectory)
    return dict(sorted(parts.items()))


async def evaluate(
    manager: Rollouts,
    tasks: Sequence[Task],
    config: EvalConfig,
    *,
    policy: Policy,
    step: int,
    on_episode: OnEpisode | None = None,
    finished: Mapping[EpisodeKey, Trajectory] | None = None,
    common: int | None = None,
) -> Evaluation:
    """Run `config.samples` episodes of each task under a published policy; see `Rollouts.rollout`.

    Of the tasks the first `common` are those that all evaluations of a run play; None: all.
    """
    sampling = Sampling(max_tokens=1, temperature=config.temperature, top_p=config.top_p, top_k=config.top_k)
    results = await manager.rollout(
        tasks,
        policy=policy,
        phase="eval",
        step=step,
        group_size=config.samples,
        sampling=sampling,
        on_episode=on_episode,
        finished=finished,
    )
    ids = {task.id for task in tasks[:common]}
    return summarize([t for r in results for t in r.trajectories], len(tasks), manager.source.id, common=ids)
