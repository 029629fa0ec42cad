"""Another reward over the episodes of a run: kept beside the score each ended with, with what it would have changed.

Nothing is sampled. With the environment's final state, which no record holds, the recorded actions are played again.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from agentgrpo.activity import Activity
from agentgrpo.blocking import run_blocking
from agentgrpo.config.run import Config
from agentgrpo.errors import TaskError, UserError
from agentgrpo.replay.compare import compare
from agentgrpo.replay.environments import Repetitions
from agentgrpo.replay.movement import Movement, Pair, most_moved, movements
from agentgrpo.replay.recorded import kept_tasks, open_config, open_recorded
from agentgrpo.replay.said import as_environment_scored
from agentgrpo.replay.sweep import sweep
from agentgrpo.rewards.named import NamedReward, load_reward
from agentgrpo.rollout.scoring import Scorer
from agentgrpo.run.report import Advance, Reporter, SilentReporter
from agentgrpo.run.workbench import EnvLike
from agentgrpo.store.record import hash_source
from agentgrpo.store.rows import StoredEpisode
from agentgrpo.store.run import RunDirectory
from agentgrpo.store.scores import Rescore, Score, write_scores
from agentgrpo.types import Boundary, Failure, Trajectory

_AT_ONCE = 64  # episodes that are scored at once
_NO_SCORE = "it ended without a score"
_NO_TASK = "its task is not kept in the run"


@dataclass(slots=True, kw_only=True)
class Rescored:
    """What another reward made of a run's episodes."""

    id: int = 0  # the number its scores are kept under
    pairs: list[Pair] = field(default_factory=list)
    problems: Counter[str] = field(default_factory=Counter)  # why others have no new score

    @property
    def movements(self) -> list[Movement]:
        """How the episodes move, by phase."""
        return movements(self.pairs)

    @property
    def most_moved(self) -> list[Pair]:
        """The episodes that move most."""
        return most_moved(self.pairs)


Scoring = Callable[[Trajectory], Awaitable[Trajectory]]  # returns it with its new score, or with why it has none


def rescore(
    run: str | Path,
    reward: str,
    *,
    weights: Mapping[str, float] | None = None,
    with_state: bool = False,
    env: EnvLike | None = None,
    overrides: Sequence[str] = (),
    reporter: Reporter | None = None,
) -> Rescored:
    """Score a run's episodes by another reward, keep the scores beside the old ones, and return what moves.

    The reward is given what it is given in training: an `agentgrpo.rewards.Episode`, with the environment's own score.

    Args:
        run: The run's folder, or a folder of runs (the newest is taken).
        reward: "module:function" or "path/to/file.py:function".
        weights: Of its terms; 1 where none is given.
        with_state: Let it see the environment's final state: the recorded actions are played again for it, and an
            episode that does not come out as recorded gets no new score. Otherwise its state is None.
        env: The run's environment, where its configuration does not lead there.
        overrides: "section.key=value" strings.
        reporter: Where progress goes.

    Raises:
        UserError: there is no such run or function, or it can score no episode.
        RunError: the scores cannot be written.
    """
    named = load_reward(reward)
    return run_blocking(
        _rescore(run, named, dict(weights or {}), with_state, env, overrides, reporter or SilentReporter())
    )


async def _rescore(
    path: str | Path,
    reward: NamedReward,
    weights: Mapping[str, float],
    with_state: bool,
    env: EnvLike | None,
    overrides: Sequence[str],
    reporter: Reporter,
) -> Rescored:
    run, _, config = open_config(path, overrides)
    found, scores = Rescored(), list[Score]()
    scorer = Scorer(reward, weights=weights, seconds=config.rollout.tool_seconds)
    opened = _playing(run, scorer, env, overrides, reporter) if with_state else _reading(run, scorer)
    async with opened as scoring:

        async def score(stored: StoredEpisode, advance: Advance) -> None:
            if stored.trajectory.is_scored:
                scores.append(_add(found, stored, await _scored(scoring, stored.trajectory)))
            else:
                found.problems[_NO_SCORE] += 1
            advance(1)

        await sweep(run.episodes, score, at_once=_at_once(config, with_state), title="rescore", reporter=reporter)
    if not found.pairs:
        causes = ", ".join(f"{cause} ({count})" for cause, count in found.problems.most_common(3)) or "there are none"
        hint = "" if with_state else " A reward that looks at the final state needs it played again: --with-state."
        raise UserError(f"{reward.name} could score no episode of '{run.path}': {causes}. Nothing was written.{hint}")
    made = Rescore(reward=reward.name, source_sha256=hash_source(reward.function), weights=weights, made_at=time.time())
    found.id = write_scores(run.episodes, made, scores)
    return found


def _at_once(config: Config, with_state: bool) -> int:
    return max(_AT_ONCE, config.rollout.concurrency) if with_state else _AT_ONCE


async def _scored(scoring: Scoring, trajectory: Trajectory) -> Trajectory | str:
    """Return an episode with its new score, or why it cannot have one."""
    try:
        scored = await scoring(trajectory)
    except TaskError:
        return _NO_TASK
    if scored.failure is not None:
        return scored.failure.cause
    return scored


def _add(found: Rescored, stored: StoredEpisode, scored: Trajectory | str) -> Score:
    """Count an episode and return its new score."""
    row, old = stored.row, stored.trajectory
    if isinstance(scored, str) or scored.reward is None or old.reward is None:
        problem = scored if isinstance(scored, str) else _NO_SCORE
        found.problems[problem] += 1
        return Score(episode=row.id, reward=None, success=None, problem=problem)
    pair = Pair(
        row=row,
        before=old.reward,
        after=scored.reward,
        success_before=bool(old.success),
        success_after=bool(scored.success),
    )
    found.pairs.append(pair)
    return Score(episode=row.id, reward=scored.reward, success=scored.success, terms=scored.reward_terms)


@asynccontextmanager
async def _reading(run: RunDirectory, scorer: Scorer) -> AsyncIterator[Scoring]:
    """Yield what scores an episode from its record alone."""
    tasks = kept_tasks(run)

    async def score(trajectory: Trajectory) -> Trajectory:
        task = tasks.get(trajectory.key.task_id)
        if task is None:
            raise TaskError(_NO_TASK)
        return await scorer.episode(as_environment_scored(trajectory), task, None)

    async with scorer:
        yield score


@asynccontextmanager
async def _playing(
    run: RunDirectory, scorer: Scorer, env: EnvLike | None, overrides: Sequence[str], reporter: Reporter
) -> AsyncIterator[Scoring]:
    """Yield what scores an episode with the state its environment ends in when it is played again."""
    recorded = open_recorded(run.path, env=env, overrides=overrides)
    for note in recorded.notes:
        reporter.message(f"note: {note}")
    async with Repetitions(recorded, activity=Activity(reporter.message), scorer=scorer) as repetitions:

        async def score(trajectory: Trajectory) -> Trajectory:
            again = await repetitions.again(trajectory)
            divergence = None if again.failure is not None else compare(trajectory, again)
            if divergence is None:
                return again
            cause = f"played again, the {divergence} differs"
            return replace(again, reward=None, failure=Failure(boundary=Boundary.ENV, cause=cause))

        yield score
