"""Episodes of a chat model behind an endpoint: text without token ids, so nothing of them can be trained on by GRPO."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from agentgrpo.activity import Activity
from agentgrpo.config.run import RolloutConfig
from agentgrpo.endpoint.client import Endpoint, PromptTooLong
from agentgrpo.endpoint.wire import action_to_wire, to_wire
from agentgrpo.registry import EnvSource
from agentgrpo.rollout.manager import Rollouts
from agentgrpo.rollout.record import Recorder
from agentgrpo.rollout.scoring import Scorer
from agentgrpo.rollout.speaker import Given, Said
from agentgrpo.rollout.turn import Limits
from agentgrpo.types import JsonObject, Message, Sampling, StopReason


class TextSpeaker:
    """A chat model in an episode. Tokens count as the endpoint counts them."""

    def __init__(
        self, recorder: Recorder, endpoint: Endpoint, limits: Limits, sampling: Sampling, activity: Activity
    ) -> None:
        self.recorder, self.endpoint, self.limits, self.activity = recorder, endpoint, limits, activity
        self._sampling = sampling
        self._messages: list[Message] = []
        self._tools: Sequence[JsonObject] = ()
        self._said = 0  # tokens, as far as the endpoint counts them
        recorder.info["endpoint"] = {"model": endpoint.model, "prompt_tokens": None, "completion_tokens": None}

    def begin(self, messages: Sequence[Message], tools: Sequence[JsonObject]) -> None:
        """Note the prompt."""
        self.recorder.prompt, self.recorder.tools = tuple(messages), tuple(tools)
        self._messages, self._tools = [to_wire(m) for m in messages], tools

    async def speak(self) -> Said | StopReason:
        """Ask for the next message."""
        number, key = len(self.recorder.turns), str(self.recorder.key)
        room, shortage = self.limits.room(0, self._said)
        if not room:
            return shortage
        clock = time.perf_counter()
        try:
            with self.activity.waiting(key, "generate", f"turn {number}"):
                reply = await self.endpoint.chat(
                    self._messages,
                    self._tools,
                    sampling=replace(self._sampling, max_tokens=room),
                    seconds=self.limits.generate_seconds,
                    call_prefix=f"call_{number}",
                )
        except PromptTooLong:
            return StopReason.CONTEXT_FULL
        self._said += reply.completion_tokens or 0
        _add(self.recorder.info["endpoint"], "prompt_tokens", reply.prompt_tokens)
        _add(self.recorder.info["endpoint"], "completion_tokens", reply.completion_tokens)
        if reply.finish_reason == "length" and not reply.message.calls:
            return shortage
        return Said(message=reply.message, finish_reason=reply.finish_reason, seconds=time.perf_counter() - clock)

    def repeat(self, given: Given) -> None:
        """Nothing to note: `listen` is told the action."""

    def listen(self, action: JsonObject, news: Sequence[Message], tools: Sequence[JsonObject]) -> None:
        """Note what is new."""
        self._messages += [action_to_wire(action), *(to_wire(m) for m in news)]
        self._tools = tools

    async def release(self) -> None:
        """Nothing is held."""


def _add(counts: JsonObject, name: str, count: int | None) -> None:
    if count is not None:
        counts[name] = (counts[name] or 0) + count


class TextRollouts(Rollouts):
    """Runs groups of episodes of a chat model."""

    def __init__(
        self,
        source: EnvSource,
        endpoint: Endpoint,
        config: RolloutConfig,
        *,
        seed: int,
        activity: Activity | None = None,
        scorer: Scorer | None = None,
    ) -> None:
        super().__init__(
            source,
            config,
            seed=seed,
            places=endpoint.concurrency,
            context_length=None,
            activity=activity,
            scorer=scorer,
        )
        self.endpoint = endpoint

    def speaker(self, recorder: Recorder, sampling: Sampling) -> TextSpeaker:
        """Return the chat model."""
        return TextSpeaker(recorder, self.endpoint, self.limits, sampling, self.activity)
