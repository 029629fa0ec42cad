"""What scores an episode besides its environment: a reward named in the config, a judge.

An episode that ended well and cannot be scored keeps its end and has no reward: it is left out of its group's baseline
and counted by what failed, never 0. Nothing is known here of stores or of learning.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace

from agentgrpo.activity import Activity
from agentgrpo.core import weigh
from agentgrpo.errors import EnvError, EpisodeError, RewardFailure
from agentgrpo.judge.judge import Judge
from agentgrpo.judge.verdict import Verdict
from agentgrpo.rewards.episode import Episode
from agentgrpo.rewards.named import NamedReward
from agentgrpo.rollout.group import GroupResult
from agentgrpo.types import Failure, Group, Json, Task, Trajectory

Keep = Callable[[Sequence[Trajectory]], Awaitable[None]]


class Scorer:
    """Scores what has ended. Use as an async context manager.

    Args:
        reward: Replaces the environment's terms.
        weights: Of its terms; 1 where none is given.
        judge: Adds the term "judge".
        seconds: Deadline of the reward.
        keep: Stores the episodes of a group anew once they are ranked.
        activity: Is told what is waited for, and what goes wrong.
    """

    def __init__(
        self,
        reward: NamedReward | None = None,
        *,
        weights: Mapping[str, float] | None = None,
        judge: Judge | None = None,
        seconds: float = 60.0,
        keep: Keep | None = None,
        activity: Activity | None = None,
    ) -> None:
        self.reward, self.judge, self.seconds = reward, judge, seconds
        self.weights, self.activity = dict(weights or {}), activity or Activity()
        self._keep = keep

    async def __aenter__(self) -> Scorer:
        await (self.judge or nullcontext()).__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await (self.judge or nullcontext()).__aexit__(None, None, None)

    @property
    def needs_state(self) -> bool:
        """Whether the environment's final state is looked at."""
        return self.reward is not None

    @property
    def ranks_groups(self) -> bool:
        """Whether a group has to be complete before its episodes have their rewards."""
        return self.judge is not None and self.judge.config.mode == "group"

    async def episode(self, trajectory: Trajectory, task: Task, state: Json) -> Trajectory:
        """Return an episode that has just ended with its score; as it is, when it has none to begin with."""
        if not trajectory.is_scored:
            return trajectory
        try:
            if self.reward is not None:
                trajectory = await self._rewarded(self.reward, trajectory, task, state)
            if self.judge is not None and not self.ranks_groups:
                trajectory = with_verdict(trajectory, await self.judge.score(trajectory), self.judge)
        except EpisodeError as error:
            return unscored(trajectory, error)
        return trajectory

    async def group(self, result: GroupResult) -> GroupResult:
        """Return a training group with its episodes ranked against each other, and stored like that.

        Those of a run that was stopped may be ranked already: then they stay as they are, unless another has joined
        them since.
        """
        scored = result.group.trajectories
        if self.judge is None or not self.ranks_groups or all("judge" in t.info for t in scored):
            return result
        own = [without_verdict(trajectory) for trajectory in scored]
        try:
            verdicts = await self.judge.rank(own)
            ranked = [with_verdict(t, verdict, self.judge) for t, verdict in zip(own, verdicts, strict=True)]
        except EpisodeError as error:
            ranked = [unscored(trajectory, error) for trajectory in own]
        if self._keep is not None:
            await self._keep(ranked)
        group = Group(task=result.group.task, trajectories=tuple(t for t in ranked if t.is_scored))
        return GroupResult(group=group, failed=(*result.failed, *(t for t in ranked if not t.is_scored)))

    def metrics(self) -> dict[str, float]:
        """Return what judging has cost."""
        return {} if self.judge is None else self.judge.metrics()

    async def _rewarded(self, reward: NamedReward, trajectory: Trajectory, task: Task, state: Json) -> Trajectory:
        episode = Episode.of(trajectory, {**task.row, "task_id": task.id}, state)
        try:
            with self.activity.waiting(str(trajectory.key), "reward"):
                terms = await reward.terms(episode, seconds=self.seconds)
            total = weigh(terms, self.weights)
        except RewardFailure as error:
            self.activity.trouble("reward_failures", f"the reward {error}")
            raise
        except EnvError as error:  # a weight for a term that is not there
            raise RewardFailure(f"{reward.name}: {error}") from error
        own = {"reward": trajectory.reward, "terms": dict(trajectory.reward_terms)}
        return replace(trajectory, reward=total, reward_terms=terms, info={**trajectory.info, "env_reward": own})


def unscored(trajectory: Trajectory, error: EpisodeError) -> Trajectory:
    """Return an episode that ended as it did, without a score and with the reason."""
    failure = Failure(boundary=error.boundary, cause=str(error))
    return replace(trajectory, reward=None, reward_terms={}, failure=failure)


def with_verdict(trajectory: Trajectory, verdict: Verdict, judge: Judge) -> Trajectory:
    """Return an episode whose reward has the judge's term: what it was plus `weight * score`.

    Raises:
        RewardFailure: it has a term of that name already.
    """
    if "judge" in trajectory.reward_terms:
        raise RewardFailure("the reward has a term 'judge' of its own beside [judge]: rename it")
    own = trajectory.reward or 0.0
    return replace(
        trajectory,
        reward=own + judge.config.weight * verdict.score,
        reward_terms={**trajectory.reward_terms, "judge": verdict.score},
        info={
            **trajectory.info,
            "judge": {"model": judge.config.model, "reason": verdict.reason, "own_reward": own},
        },
    )


def without_verdict(trajectory: Trajectory) -> Trajectory:
    """Return an episode as it was scored before a judge saw it."""
    if "judge" not in trajectory.info:
        return trajectory
    own: float = trajectory.info["judge"]["own_reward"]
    info = {name: value for name, value in trajectory.info.items() if name != "judge"}
    terms = {name: value for name, value in trajectory.reward_terms.items() if name != "judge"}
    return replace(trajectory, reward=own, reward_terms=terms, info=info)
