"""One episode, top to bottom: prompt, speak, step, listen, until something ends it. THE loop.

It knows nothing of groups, stores or learning. Whatever breaks is recorded on the trajectory.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from agentgrpo.activity import Activity
from agentgrpo.core import StepResult
from agentgrpo.errors import EpisodeError
from agentgrpo.rollout.isolation import EnvHost
from agentgrpo.rollout.record import Recorder
from agentgrpo.rollout.speaker import Speaker
from agentgrpo.rollout.turn import Limits, action_text, record_turn
from agentgrpo.tooling import one_line
from agentgrpo.types import (
    AssistantMessage,
    Boundary,
    Failure,
    JsonObject,
    Message,
    StopReason,
    Task,
    Trajectory,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What an episode is played with: its environment, who acts in it, what bounds it, and how it begins."""

    host: EnvHost
    speaker: Speaker
    limits: Limits
    activity: Activity = field(default_factory=Activity)
    begin: Begin | None = None  # None: anew


# Brings the environment to where the episode begins, lets the speaker know, and returns the tools it offers.
Begin: TypeAlias = Callable[[Recorder, Task, Stage], Awaitable[Sequence[JsonObject]]]


async def run_episode(recorder: Recorder, task: Task, stage: Stage) -> Trajectory:
    """Run one episode and return its record; only cancellation and a RunError escape."""
    failure = None
    try:
        async with asyncio.timeout(stage.limits.episode_seconds):
            stop_reason = await _play(recorder, task, stage)
    except TimeoutError:
        stop_reason, failure = StopReason.DEADLINE, _lost_environment(stage)
    except EpisodeError as error:
        stop_reason, failure = StopReason.FAILED, Failure(boundary=error.boundary, cause=str(error))
    finally:
        await stage.speaker.release()
    if stop_reason.is_truncated and recorder.reward is None and failure is None:
        stop_reason, failure = await _score_unfinished(recorder, stage, stop_reason)
    return recorder.freeze(stop_reason, failure)


async def _play(recorder: Recorder, task: Task, stage: Stage) -> StopReason:
    speaker = stage.speaker
    tools = await (stage.begin or _begin_anew)(recorder, task, stage)
    while True:
        said = await speaker.speak()
        if isinstance(said, StopReason):
            return said
        message, clock = said.message, time.perf_counter()
        obs, reward, terminated, truncated, info = await _step(recorder, message, stage)
        info = complete(info, obs, terminated=terminated, tools=tools)
        turn = record_turn(
            message,
            said.finish_reason,
            reward,
            info,
            generate_seconds=said.seconds,
            env_seconds=time.perf_counter() - clock,
        )
        recorder.turns.append(turn)
        if terminated or (truncated and info.get("reward_terms")):
            recorder.score(sum(t.reward for t in recorder.turns), info.get("reward_terms") or {})
        if terminated:  # also where a TimeLimit says truncated as well: the last turn allowed was enough
            return StopReason.DONE if message.calls else StopReason.ANSWERED
        if truncated or len(recorder.turns) >= stage.limits.max_turns:
            return StopReason.MAX_TURNS
        tools = tools if turn.tools is None else turn.tools
        speaker.listen(turn.action, turn.messages, tools)


async def reset(recorder: Recorder, task: Task, stage: Stage) -> tuple[list[Message], list[JsonObject]]:
    """Reset an episode's environment; return the messages it starts with and the tools it offers."""
    with stage.activity.waiting(str(recorder.key), "reset"):
        obs, info = await stage.host.reset(seed=recorder.seed, options={"task": {**task.row, "task_id": task.id}})
    return info.get("messages") or _as_user(obs), info.get("tools") or []


async def _begin_anew(recorder: Recorder, task: Task, stage: Stage) -> Sequence[JsonObject]:
    messages, tools = await reset(recorder, task, stage)
    stage.speaker.begin(messages, tools)
    return tools


def complete(info: JsonObject, obs: str, *, terminated: bool, tools: Sequence[JsonObject]) -> JsonObject:
    """Return a step's info as it is recorded: with what was observed, and with tools only where they changed."""
    known = {name: value for name, value in info.items() if name != "tools" or list(value) != list(tools)}
    if known.get("messages") or (terminated and not obs):
        return known
    return {**known, "messages": _as_user(obs)}


async def _step(recorder: Recorder, message: AssistantMessage, stage: Stage) -> StepResult:
    names = one_line(", ".join(call.name or "?" for call in message.calls), 80)
    with stage.activity.waiting(str(recorder.key), "env step", f"turn {len(recorder.turns)}: {names or 'no call'}"):
        return await stage.host.step(action_text(message, stage.host.action_format), calls=names)


async def _score_unfinished(
    recorder: Recorder, stage: Stage, stop_reason: StopReason
) -> tuple[StopReason, Failure | None]:
    """Score the state an episode was cut off in; an environment that cannot gives what its steps summed up to."""
    try:
        with stage.activity.waiting(str(recorder.key), "score"):
            scored = await stage.host.score()
    except EpisodeError as error:
        return StopReason.FAILED, Failure(boundary=error.boundary, cause=str(error))
    steps: tuple[float, JsonObject] = (sum(turn.reward for turn in recorder.turns), {})
    recorder.score(*(scored if scored is not None else steps))
    return stop_reason, None


def _lost_environment(stage: Stage) -> Failure | None:
    """Return why an episode whose deadline fell into a call of its environment cannot be scored: that is gone."""
    if stage.host.lost is None:
        return None
    seconds = f"{stage.limits.episode_seconds:g} s"
    return Failure(boundary=Boundary.ENV, cause=f"the episode's {seconds} were over: {stage.host.lost}")


def _as_user(obs: str) -> list[Message]:
    return [{"role": "user", "content": obs}]
