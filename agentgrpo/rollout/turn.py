"""One turn's pieces: how much may be sampled, the call to the engine, the action, the record. It loops over nothing."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from agentgrpo.activity import Activity
from agentgrpo.engines import Engine
from agentgrpo.errors import EngineFailure, EpisodeError
from agentgrpo.rollout.record import Recorder
from agentgrpo.seeds import derive_seed
from agentgrpo.tooling import describe
from agentgrpo.types import AssistantMessage, FinishReason, Generation, JsonObject, Sampling, StopReason, Turn

RELEASE_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What bounds an episode. Tokens are sampled tokens; the context bounds prompt and completion together."""

    max_turns: int
    max_tokens: int
    max_turn_tokens: int
    context_length: int | None  # None: only the policy knows
    episode_seconds: float
    generate_seconds: float

    def room(self, prompt_length: int, sampled_count: int) -> tuple[int, StopReason]:
        """Return how many tokens the next turn may have, and what it means when they do not suffice."""
        episode = self.max_tokens - sampled_count
        context = episode + 1 if self.context_length is None else self.context_length - prompt_length
        reason = StopReason.CONTEXT_FULL if context <= min(episode, self.max_turn_tokens) else StopReason.MAX_TOKENS
        return max(0, min(context, episode, self.max_turn_tokens)), reason


async def generate(
    engine: Engine, recorder: Recorder, prompt_ids: Sequence[int], sampling: Sampling, seconds: float
) -> tuple[Generation, float]:
    """Sample one turn, its seed derived from the episode's; return it and the seconds it took.

    Raises:
        EngineFailure: the engine broke or did not answer within `seconds`.
    """
    request = Sampling(
        max_tokens=sampling.max_tokens,
        seed=derive_seed(sampling.seed, len(recorder.turns)),
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        stop_token_ids=sampling.stop_token_ids,
    )
    clock = time.perf_counter()
    try:
        async with asyncio.timeout(seconds):
            generation = await engine.generate(prompt_ids, request, recorder.policy, session=str(recorder.key))
    except TimeoutError as error:
        raise EngineFailure(f"no answer within {seconds:g} s") from error
    except EpisodeError:
        raise
    except Exception as error:  # a connection, a device, a bug: this episode is lost, the run goes on
        raise EngineFailure(f"the engine raised {describe(error)}") from error
    _check(generation)
    return generation, time.perf_counter() - clock


def _check(generation: Generation) -> None:
    """Refuse what would make a loss that is no number: it never reaches the learner."""
    ids, logprobs = generation.token_ids, generation.logprobs
    if len(ids) != len(logprobs):
        raise EngineFailure(f"the engine returned {len(ids)} tokens and {len(logprobs)} logprobs")
    for place, logprob in enumerate(logprobs):
        if not math.isfinite(logprob):
            raise EngineFailure(
                f"the engine returned a logprob of {logprob} for token {place + 1} of {len(ids)}: the model's numbers "
                "overflow; try model.dtype = 'float32', a lower learner.learning_rate or an earlier checkpoint"
            )


async def release(engine: Engine, session: str, activity: Activity) -> None:
    """Let the engine forget an episode; if it cannot, that is counted and the episode stands."""
    try:
        async with asyncio.timeout(RELEASE_SECONDS):
            await engine.release(session)
    except Exception as error:
        activity.trouble("release_failures", f"the engine could not release {session}: {describe(error)}")


def action_text(message: AssistantMessage, action_format: str) -> str:
    """Return what the environment is stepped with: canonical JSON, or the bare text if that is what it takes."""
    if action_format == "text":
        return message.content
    return json.dumps(message.to_message(), ensure_ascii=False, sort_keys=True)


def record_turn(
    message: AssistantMessage,
    finish_reason: FinishReason,
    reward: float,
    info: JsonObject,
    *,
    generate_seconds: float,
    env_seconds: float,
) -> Turn:
    """Return the turn as readable data; `info` has tools where they changed."""
    diff, tools = info.get("state_diff"), info.get("tools")
    return Turn(
        action=message.to_message(),
        messages=tuple(info.get("messages") or ()),
        reward=reward,
        state_hash=info.get("state_hash"),
        state_diff=None if diff is None else tuple(diff),
        generate_seconds=generate_seconds,
        env_seconds=env_seconds,
        finish_reason=finish_reason,
        tools=None if tools is None else tuple(tools),
    )
