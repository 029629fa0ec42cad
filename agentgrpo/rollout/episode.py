"""One episode, top to bottom: prompt, sample, parse, step, until something ends it. THE loop.

It knows nothing of groups, stores or learning. Whatever breaks is recorded on the trajectory.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass

from agentgrpo.chat import Chat, assistant_message
from agentgrpo.engines import Engine
from agentgrpo.errors import EngineFailure, EpisodeError
from agentgrpo.rollout.isolation import EnvHost
from agentgrpo.rollout.record import Recorder
from agentgrpo.seeds import derive_seed
from agentgrpo.types import (
    AssistantMessage,
    Failure,
    Generation,
    JsonObject,
    Sampling,
    StopReason,
    Task,
    Trajectory,
    Turn,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What bounds an episode. Tokens are sampled tokens; the context bounds prompt and completion together."""

    max_turns: int
    max_tokens: int
    max_turn_tokens: int
    context_length: int
    episode_seconds: float
    generate_seconds: float


async def run_episode(
    recorder: Recorder, task: Task, *, host: EnvHost, engine: Engine, chat: Chat, limits: Limits, sampling: Sampling
) -> Trajectory:
    """Run one episode and return its record; only cancellation escapes.

    `sampling.seed` is the episode's; each turn derives its own from it.
    """
    failure = None
    try:
        async with asyncio.timeout(limits.episode_seconds):
            stop_reason = await _play(recorder, task, host, engine, chat, limits, sampling)
    except TimeoutError:
        stop_reason = StopReason.DEADLINE
    except EpisodeError as error:
        stop_reason, failure = StopReason.FAILED, Failure(boundary=error.boundary, cause=str(error))
    finally:
        await engine.release(str(recorder.key))
    if stop_reason.is_truncated:
        stop_reason, failure = await _score_unfinished(recorder, host, stop_reason)
    return recorder.freeze(stop_reason, failure)


async def _play(
    recorder: Recorder, task: Task, host: EnvHost, engine: Engine, chat: Chat, limits: Limits, sampling: Sampling
) -> StopReason:
    obs, info = await host.reset(seed=recorder.seed, options={"task": {"task_id": task.id, **task.row}})
    messages = list(info.get("messages") or [{"role": "user", "content": obs}])
    tools = info.get("tools") or []
    prompt_ids = chat.render(messages, tools)
    recorder.start(messages, tools, prompt_ids)
    total = 0.0
    while True:
        room = limits.context_length - len(prompt_ids)
        if room <= 0:
            return StopReason.CONTEXT_FULL
        budget = min(room, limits.max_turn_tokens, limits.max_tokens - recorder.sampled_count)
        if budget <= 0:
            return StopReason.MAX_TOKENS
        generation, seconds = await _generate(recorder, engine, chat, limits, sampling, prompt_ids, budget)
        message = chat.parse(
            generation.token_ids, prompt_ids, tools, call_prefix=f"call_{len(recorder.turns)}"
        )
        recorder.sampled(generation)
        if generation.finish_reason == "length" and not message.calls:
            return StopReason.CONTEXT_FULL if budget == room else StopReason.MAX_TOKENS
        clock = time.perf_counter()
        obs, reward, terminated, truncated, info = await host.step(_action(message, host))
        turn = _turn(message, generation, reward, info, seconds, time.perf_counter() - clock)
        total += reward
        if terminated or truncated:
            recorder.turns.append(turn)
            recorder.score(total, info.get("reward_terms") or {})
            if truncated:
                return StopReason.MAX_TURNS
            return StopReason.DONE if message.calls else StopReason.ANSWERED
        news = list(turn.messages) or [{"role": "user", "content": obs}]
        recorder.turns.append(turn)
        if len(recorder.turns) >= limits.max_turns:
            return StopReason.MAX_TURNS
        messages += [assistant_message(turn.action), *news]
        offered = info.get("tools") or tools
        # Tools stand in the system message: when they change, nothing before them can be extended.
        extended = chat.extend(prompt_ids, generation.token_ids, news, tools) if offered == tools else None
        tools = offered
        if extended is not None:
            recorder.extend(extended[len(prompt_ids) + len(generation.token_ids) :])
            prompt_ids = extended
        else:
            prompt_ids = chat.render(messages, tools)
            recorder.fork(prompt_ids)


async def _generate(
    recorder: Recorder,
    engine: Engine,
    chat: Chat,
    limits: Limits,
    sampling: Sampling,
    prompt_ids: list[int],
    budget: int,
) -> tuple[Generation, float]:
    request = Sampling(
        max_tokens=budget,
        seed=derive_seed(sampling.seed, len(recorder.turns)),
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        stop_token_ids=chat.stop_token_ids,
    )
    clock = time.perf_counter()
    try:
        async with asyncio.timeout(limits.generate_seconds):
            generation = await engine.generate(prompt_ids, request, recorder.policy, session=str(recorder.key))
    except TimeoutError as error:
        raise EngineFailure(f"no answer within {limits.generate_seconds:g} s") from error
    return generation, time.perf_counter() - clock


async def _score_unfinished(
    recorder: Recorder, host: EnvHost, stop_reason: StopReason
) -> tuple[StopReason, Failure | None]:
    """Score the state an episode was cut off in; an environment that cannot gives what its steps summed up to."""
    if recorder.reward is not None:
        return stop_reason, None
    try:
        scored = await host.score()
    except EpisodeError as error:
        return StopReason.FAILED, Failure(boundary=error.boundary, cause=str(error))
    steps = sum(turn.reward for turn in recorder.turns)
    reward, terms = scored if scored is not None else (steps, {})
    recorder.score(reward, terms)
    return stop_reason, None


def _action(message: AssistantMessage, host: EnvHost) -> str:
    if host.action_format == "text":
        return message.content
    return json.dumps(message.to_message(), ensure_ascii=False, sort_keys=True)


def _turn(
    message: AssistantMessage, generation: Generation, reward: float, info: JsonObject, generate: float, env: float
) -> Turn:
    diff = info.get("state_diff")
    return Turn(
        action=message.to_message(),
        messages=tuple(info.get("messages") or ()),
        reward=float(reward),
        state_hash=info.get("state_hash"),
        state_diff=None if diff is None else tuple(diff),
        generate_seconds=generate,
        env_seconds=env,
        finish_reason=generation.finish_reason,
    )
