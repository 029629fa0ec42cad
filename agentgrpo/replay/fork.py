"""Forks: a recorded episode re-entered at a turn, and played on from there as new episodes.

They are stored in the run's file with the episode they come from, and never trained.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agentgrpo.activity import Activity
from agentgrpo.blocking import run_blocking
from agentgrpo.endpoint.client import Endpoint
from agentgrpo.errors import UserError
from agentgrpo.replay.compare import ENDED_BY_ITSELF
from agentgrpo.replay.environments import Repetitions
from agentgrpo.replay.hand import action_by_hand
from agentgrpo.replay.policies import Chosen, choose
from agentgrpo.replay.prefix import Prefix
from agentgrpo.replay.recorded import Recorded, open_recorded
from agentgrpo.replay.said import said_in
from agentgrpo.rollout.manager import RolloutManager, Rollouts, Start
from agentgrpo.rollout.speaker import Given
from agentgrpo.rollout.text import TextRollouts
from agentgrpo.run.report import Reporter, SilentReporter
from agentgrpo.run.rewarding import open_rewarding
from agentgrpo.run.workbench import EnvLike, assemble, set_threads
from agentgrpo.store.episodes import EpisodeStore
from agentgrpo.store.lock import RunLock
from agentgrpo.store.reader import EpisodeReader
from agentgrpo.store.rows import EpisodeRow, StoredEpisode
from agentgrpo.types import EpisodeKey, JsonObject, Parent, Policy, Sampling, Task, Trajectory

NOBODY = "none"  # in place of a policy: the episode ends after the action


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What is to be forked, and who goes on."""

    recorded: Recorded
    parent: StoredEpisode
    task: Task
    turns: int  # taken over
    given: tuple[Given, ...]  # what comes next, by hand
    policy: Chosen | Endpoint | None  # None: nobody


@dataclass(frozen=True, slots=True, kw_only=True)
class _Player:
    rollouts: Rollouts
    policy: Policy
    shares_tokens: bool


def fork(
    run: str | Path,
    episode: int | str | EpisodeKey,
    *,
    turn: int,
    count: int = 1,
    policy: str | Path | Endpoint | None = None,
    action: JsonObject | str | None = None,
    env: EnvLike | None = None,
    overrides: Sequence[str] = (),
    reporter: Reporter | None = None,
) -> tuple[EpisodeRow, ...]:
    """Re-enter an episode at a turn and play on from there, `count` times; return the new episodes as they are stored.

    It loads a model and runs episodes: call it in a thread where an event loop has to go on meanwhile.

    Args:
        run: The run's folder, or a folder of runs (the newest is taken).
        episode: Its number, or its key.
        turn: The first turn that is played anew, counted from 1 as it is shown. The turn after the last one plays on
            an episode that a limit or a failure had ended.
        count: How many episodes to play.
        policy: Who plays: a checkpoint of the run ("best", "last", "step-NNNNNN"), "base", a folder with an adapter,
            another run (its best checkpoint), or a chat model behind an endpoint. None: the run's best checkpoint.
            "none": nobody, the episode is scored as it stands after the action.
        action: What is done at that turn, before the policy goes on: a canonical action, its JSON, or text that may
            hold `<tool_call>` blocks.
        env: The run's environment, where its configuration does not lead there.
        overrides: "section.key=value" strings, such as "rollout.max_turns=16".
        reporter: Where progress goes.

    Raises:
        UserError: there is no such run, episode, turn or policy.
        Diverged: what was recorded before that turn does not happen again, so its state cannot be had.
        RunError: the engine broke, or the episodes cannot be stored.
    """
    tell = reporter or SilentReporter()
    recorded = _without_judge(open_recorded(run, env=env, overrides=overrides))
    parent = _parent(recorded, episode, turn, count, tell)
    plan = _Plan(
        recorded=recorded,
        parent=parent,
        task=recorded.task(parent.trajectory.key.task_id),
        turns=turn - 1,
        given=() if action is None else (action_by_hand(action, parent.trajectory, turn - 1),),
        policy=_policy(recorded, policy, has_action=action is not None, count=count),
    )
    with RunLock(recorded.run.path, "forked"):
        return run_blocking(_fork(plan, count, tell))


def _without_judge(recorded: Recorded) -> Recorded:
    """Leave out a judge: its verdicts cost, and a rank within a training group is not to be had."""
    if recorded.config.judge is None:
        return recorded
    note = "forks are not judged: their reward is without the judge's term"
    config = recorded.config.model_copy(update={"judge": None})
    return replace(recorded, config=config, notes=(*recorded.notes, note))


def _parent(
    recorded: Recorded, episode: int | str | EpisodeKey, turn: int, count: int, tell: Reporter
) -> StoredEpisode:
    """Return the episode to fork, and tell what is not as it was."""
    for note in recorded.notes:
        tell.message(f"note: {note}")
    with EpisodeReader(recorded.run.episodes) as reader:
        parent = reader.get(episode)
    _check(recorded, parent, turn, count)
    return parent


def _check(recorded: Recorded, parent: StoredEpisode, turn: int, count: int) -> None:
    """Raise UserError unless an episode can be forked at a turn."""
    trajectory, name = parent.trajectory, f"episode #{parent.row.id} ({parent.row.key})"
    known = len(trajectory.turns)
    last = known if trajectory.stop_reason in ENDED_BY_ITSELF else known + 1
    if not trajectory.prompt:
        raise UserError(f"{name} broke before it began: there is nothing to fork")
    if not 1 <= turn <= last:
        more = "" if last == known else f", the last of which plays on after its end ({trajectory.stop_reason})"
        raise UserError(f"{name} has {known} turns: it can be forked at turn 1 to {last}{more}, not at {turn}")
    limit = recorded.config.rollout.max_turns
    if turn > limit:
        raise UserError(
            f"turn {turn} is beyond rollout.max_turns = {limit}: fork at an earlier turn, or --set rollout.max_turns="
            f"{2 * limit}"
        )
    if count < 1:
        raise UserError(f"{count} episodes cannot be played: give a number from 1 on")


def _policy(
    recorded: Recorded, wanted: str | Path | Endpoint | None, *, has_action: bool, count: int
) -> Chosen | Endpoint | None:
    if isinstance(wanted, Endpoint):
        return wanted
    if str(wanted) != NOBODY or wanted is None:
        return choose(recorded, wanted)
    if not has_action:
        raise UserError("nobody goes on (--policy none), so say what is done: --action JSON")
    if count > 1:
        raise UserError("an action after which nobody goes on is the same each time: play it once (-n 1)")
    return None


async def _fork(plan: _Plan, count: int, reporter: Reporter) -> tuple[EpisodeRow, ...]:
    recorded, parent = plan.recorded, plan.parent
    keys = _keys(recorded, parent, count)
    activity, rollout = Activity(reporter.message), recorded.config.rollout
    sampling = Sampling(max_tokens=rollout.max_turn_tokens, temperature=rollout.temperature)
    with EpisodeStore(recorded.run.episodes) as store, reporter.progress("forks", count) as advance:
        async with _playing(plan, activity) as player:
            said = said_in(parent.trajectory, with_ids=player.shares_tokens)
            start = Start(
                seed=parent.trajectory.seed, begin=Prefix(parent.trajectory, plan.turns, said), given=plan.given
            )

            async def play(key: EpisodeKey) -> Trajectory:
                played = await player.rollouts.episode(
                    key, plan.task, policy=player.policy, sampling=sampling, start=start
                )
                forked = replace(played, parent=Parent(episode=parent.row.id, turns=plan.turns))
                await store.add([forked])
                advance(1)
                return forked

            async with asyncio.TaskGroup() as group:
                jobs = [group.create_task(play(key)) for key in keys]
    if player.shares_tokens and any(_is_rendered_otherwise(job.result(), parent.trajectory) for job in jobs):
        reporter.message("note: the turns taken over are rendered to other tokens now than when they were recorded")
    with EpisodeReader(recorded.run.episodes) as reader:
        return tuple(reader.get(key).row for key in keys)


@asynccontextmanager
async def _playing(plan: _Plan, activity: Activity) -> AsyncIterator[_Player]:
    """Yield who plays; a model is loaded here, and let go at the end."""
    recorded, policy, config = plan.recorded, plan.policy, plan.recorded.config
    rewarding = open_rewarding(config)
    scorer = None if rewarding is None else rewarding.scorer(activity=activity)
    how: dict[str, Any] = {"seed": config.seed, "activity": activity, "scorer": scorer}
    if policy is None:
        async with Repetitions(recorded, activity=activity, scorer=scorer) as rollouts:
            yield _Player(rollouts=rollouts, policy=Policy(name=NOBODY), shares_tokens=True)
    elif isinstance(policy, Endpoint):
        async with policy, TextRollouts(recorded.source, policy, config.rollout, **how) as rollouts:
            yield _Player(rollouts=rollouts, policy=Policy(name=policy.model), shares_tokens=False)
    else:
        set_threads(policy.config)
        bench = assemble(policy.config, recorded.source, (), ())
        try:
            if policy.adapter is not None:
                bench.policy.load(policy.adapter)
            await bench.publish(bench.policy.adapter(), policy.policy)
            manager = RolloutManager(recorded.source, bench.chat, bench.engine, config.rollout, **how)
            async with manager as rollouts:
                yield _Player(rollouts=rollouts, policy=policy.policy, shares_tokens=policy.shares_tokens)
        finally:
            await bench.engine.close()


def _keys(recorded: Recorded, parent: StoredEpisode, count: int) -> list[EpisodeKey]:
    """Return keys that no fork has yet."""
    key = replace(parent.trajectory.key, phase="fork", attempt=0)
    with EpisodeReader(recorded.run.episodes) as reader:
        first = max((row.sample + 1 for row in reader.group(key)), default=0)
    return [replace(key, sample=first + number) for number in range(count)]


def _is_rendered_otherwise(forked: Trajectory, parent: Trajectory) -> bool:
    assert forked.parent is not None
    turns = forked.parent.turns
    spans, known = ([s for s in t.spans if s.turn < turns] for t in (forked, parent))
    return bool(spans) and [(s.parent, s.token_ids) for s in spans] != [(s.parent, s.token_ids) for s in known]
