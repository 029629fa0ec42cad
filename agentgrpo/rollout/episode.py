"""One episode, top to bottom: prompt, sample, parse, step, until something ends it. THE loop.

It knows nothing of groups, stores or learning. Whatever breaks is recorded on the trajectory.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace

from agentgrpo.chat import Chat, assistant_message
from agentgrpo.engines import Engine
from agentgrpo.errors import EpisodeError
from agentgrpo.rollout.isolation import EnvHost
from agentgrpo.rollout.record import Recorder
from agentgrpo.rollout.turn import Limits, action_text, generate, record_turn
from agentgrpo.types import Failure, JsonObject, Message, Sampling, StopReason, Task, Trajectory


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What an episode is played with. `sampling.seed` is the episode's own."""

    host: EnvHost
    engine: Engine
    chat: Chat
    limits: Limits
    sampling: Sampling


async def run_episode(recorder: Recorder, task: Task, stage: Stage) -> Trajectory:
    """Run one episode and return its record; only cancellation escapes."""
    failure = None
    try:
        async with asyncio.timeout(stage.limits.episode_seconds):
            stop_reason = await _play(recorder, task, stage)
    except TimeoutError:
        stop_reason = StopReason.DEADLINE
    except EpisodeError as error:
        stop_reason, failure = StopReason.FAILED, Failure(boundary=error.boundary, cause=str(error))
    finally:
        await stage.engine.release(str(recorder.key))
    if stop_reason.is_truncated and recorder.reward is None:
        stop_reason, failure = await _score_unfinished(recorder, stage.host, stop_reason)
    return recorder.freeze(stop_reason, failure)


async def _play(recorder: Recorder, task: Task, stage: Stage) -> StopReason:
    host, chat, limits = stage.host, stage.chat, stage.limits
    sampling = replace(stage.sampling, stop_token_ids=chat.stop_token_ids)
    obs, info = await host.reset(seed=recorder.seed, options={"task": {**task.row, "task_id": task.id}})
    messages: list[Message] = list(info.get("messages") or _as_user(obs))
    tools = info.get("tools") or []
    prompt_ids = chat.render(messages, tools)
    recorder.start(messages, tools, prompt_ids)
    while True:
        room, shortage = limits.room(len(prompt_ids), recorder.sampled_count)
        if not room:
            return shortage
        request = replace(sampling, max_tokens=room)
        generation, generate_seconds = await generate(
            stage.engine, recorder, prompt_ids, request, limits.generate_seconds
        )
        message = chat.parse(generation.token_ids, prompt_ids, tools, call_prefix=f"call_{len(recorder.turns)}")
        recorder.sampled(generation)
        if generation.finish_reason == "length" and not message.calls:
            return shortage  # cut off in mid-sentence: not an answer
        clock = time.perf_counter()
        obs, reward, terminated, truncated, info = await host.step(action_text(message, host.action_format))
        turn = record_turn(
            message,
            generation,
            reward,
            info,
            generate_seconds=generate_seconds,
            env_seconds=time.perf_counter() - clock,
        )
        recorder.turns.append(turn)
        if terminated or info.get("reward_terms"):
            recorder.score(sum(t.reward for t in recorder.turns), info.get("reward_terms") or {})
        if terminated:  # also where a TimeLimit says truncated as well: the last turn allowed was enough
            return StopReason.DONE if message.calls else StopReason.ANSWERED
        if truncated or len(recorder.turns) >= limits.max_turns:
            return StopReason.MAX_TURNS
        news = list(turn.messages) or _as_user(obs)
        messages += [assistant_message(turn.action), *news]
        offered = tools if info.get("tools") is None else info["tools"]
        known = [*prompt_ids, *generation.token_ids]
        # Tools stand in the system message: when they change, nothing after them can be extended.
        extended = chat.extend(prompt_ids, generation.token_ids, news, tools) if offered == tools else None
        tools, prompt_ids = offered, extended or chat.render(messages, offered)
        if extended is not None:
            recorder.extend(prompt_ids[len(known) :])
        else:
            recorder.fork(prompt_ids)


async def _score_unfinished(
    recorder: Recorder, host: EnvHost, stop_reason: StopReason
) -> tuple[StopReason, Failure | None]:
    """Score the state an episode was cut off in; an environment that cannot gives what its steps summed up to."""
    try:
        scored = await host.score()
    except EpisodeError as error:
        return StopReason.FAILED, Failure(boundary=error.boundary, cause=str(error))
    steps: tuple[float, JsonObject] = (sum(turn.reward for turn in recorder.turns), {})
    recorder.score(*(scored if scored is not None else steps))
    return stop_reason, None


def _as_user(obs: str) -> list[Message]:
    return [{"role": "user", "content": obs}]
