"""Recorded actions played again in fresh environments, many at a time, in the isolation those declare.

Nothing is sampled and no model is loaded. Whether a difference matters is for others to say.
"""

from __future__ import annotations

import sys
from dataclasses import replace

from agentgrpo.activity import Activity
from agentgrpo.replay.compare import BROKEN, Replayed, checked, compare
from agentgrpo.replay.recorded import Recorded
from agentgrpo.replay.said import end_of, said_in
from agentgrpo.rollout.manager import Rollouts, Start
from agentgrpo.rollout.record import Recorder
from agentgrpo.rollout.scoring import Scorer
from agentgrpo.rollout.speaker import Mute
from agentgrpo.store.codec import decode, encode
from agentgrpo.store.rows import StoredEpisode
from agentgrpo.types import EpisodeKey, Sampling, StopReason, Trajectory


class Repetitions(Rollouts):
    """Plays episodes in which nothing is said but what is given. Use as an async context manager."""

    def __init__(self, recorded: Recorded, *, activity: Activity | None = None, scorer: Scorer | None = None) -> None:
        config = recorded.config.rollout
        super().__init__(
            recorded.source,
            config,
            seed=recorded.config.seed,
            places=config.concurrency,
            context_length=None,
            activity=activity,
            scorer=scorer,
        )
        self.recorded = recorded
        # What ends an episode is its record, or its environment.
        self.limits = replace(self.limits, max_turns=sys.maxsize)
        self._ends: dict[EpisodeKey, StopReason] = {}

    def speaker(self, recorder: Recorder, sampling: Sampling) -> Mute:
        """Return who speaks after what is given: nobody."""
        return Mute(recorder, self._ends.get(recorder.key, StopReason.MAX_TURNS))

    async def again(self, trajectory: Trajectory) -> Trajectory:
        """Play an episode's actions again and return what came of them, as it would be stored.

        Raises:
            TaskError: the run has lost the episode's task.
        """
        key = trajectory.key
        task = self.recorded.task(key.task_id)
        start = Start(seed=trajectory.seed, given=tuple(said_in(trajectory)))
        self._ends[key] = end_of(trajectory)
        try:
            played = await self.episode(
                key, task, policy=trajectory.policy, sampling=Sampling(max_tokens=0), start=start
            )
        finally:
            del self._ends[key]
        return as_stored(played)

    async def compared(self, stored: StoredEpisode) -> Replayed:
        """Play an episode's actions again and compare what came of them with its record."""
        trajectory = stored.trajectory
        again = await self.again(trajectory)
        return Replayed(
            episode=stored.row.id,
            key=trajectory.key,
            turns=len(trajectory.turns),
            checked=checked(trajectory),
            divergence=compare(trajectory, again),
            note=_left_out(trajectory),
        )


def as_stored(trajectory: Trajectory) -> Trajectory:
    """Return a trajectory as it is after it was stored and read again."""
    payload = encode(trajectory)
    return decode(payload.record, payload.token_ids, payload.logprobs)


def _left_out(trajectory: Trajectory) -> str | None:
    if trajectory.stop_reason not in BROKEN:
        return None
    failure = trajectory.failure
    why = f" at the {failure.boundary}: {failure.cause}" if failure else ""
    return f"how it ended is not played again: {trajectory.stop_reason}{why}"
