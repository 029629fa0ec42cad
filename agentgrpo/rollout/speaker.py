"""Who acts in an episode: what it hears, and what it says next. It knows neither environments nor rewards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from agentgrpo.activity import Activity
from agentgrpo.chat import Chat, assistant_message
from agentgrpo.engines import Engine
from agentgrpo.rollout.record import Recorder
from agentgrpo.rollout.turn import Limits, generate, release
from agentgrpo.types import AssistantMessage, FinishReason, JsonObject, Message, Sampling, StopReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One message of a speaker."""

    message: AssistantMessage
    finish_reason: FinishReason
    seconds: float


class Speaker(Protocol):
    """Acts in one episode. What it says and hears it notes in the episode's record."""

    def begin(self, messages: Sequence[Message], tools: Sequence[JsonObject]) -> None:
        """Hear the messages an episode starts with."""
        ...

    async def speak(self) -> Said | StopReason:
        """Return the next message, or why there can be none.

        Raises:
            EpisodeError: what the speaker needs is broken.
        """
        ...

    def listen(self, action: JsonObject, news: Sequence[Message], tools: Sequence[JsonObject]) -> None:
        """Hear what an action led to, and which tools there are from now on."""
        ...

    async def release(self) -> None:
        """Give back what the episode held; never fails."""
        ...


class TokenSpeaker:
    """A policy behind an engine: token ids in, token ids out, every one of them kept."""

    def __init__(
        self, recorder: Recorder, engine: Engine, chat: Chat, limits: Limits, sampling: Sampling, activity: Activity
    ) -> None:
        self.recorder, self.engine, self.chat, self.limits, self.activity = recorder, engine, chat, limits, activity
        self._sampling = replace(sampling, stop_token_ids=chat.stop_token_ids)
        self._key = str(recorder.key)
        self._messages: list[Message] = []
        self._tools: Sequence[JsonObject] = ()
        self._prompt_ids: list[int] = []
        self._said_ids: tuple[int, ...] = ()

    def begin(self, messages: Sequence[Message], tools: Sequence[JsonObject]) -> None:
        """Render the first prompt."""
        self._messages, self._tools = list(messages), tools
        self._prompt_ids = self.chat.render(messages, tools)
        self.recorder.start(messages, tools, self._prompt_ids)

    async def speak(self) -> Said | StopReason:
        """Sample one turn."""
        recorder, number = self.recorder, len(self.recorder.turns)
        room, shortage = self.limits.room(len(self._prompt_ids), recorder.sampled_count)
        if not room:
            return shortage
        request = replace(self._sampling, max_tokens=room)
        with self.activity.waiting(self._key, "generate", f"turn {number}"):
            generation, seconds = await generate(
                self.engine, recorder, self._prompt_ids, request, self.limits.generate_seconds
            )
        message = self.chat.parse(generation.token_ids, self._prompt_ids, self._tools, call_prefix=f"call_{number}")
        recorder.sampled(generation)
        if generation.finish_reason == "length" and not message.calls:
            return shortage  # cut off in mid-sentence: not an answer
        self._said_ids = generation.token_ids
        return Said(message=message, finish_reason=generation.finish_reason, seconds=seconds)

    def listen(self, action: JsonObject, news: Sequence[Message], tools: Sequence[JsonObject]) -> None:
        """Extend the prompt by what is new, or render it anew and fork."""
        self._messages += [assistant_message(action), *news]
        known, before = len(self._prompt_ids) + len(self._said_ids), self._tools
        # Tools stand in the system message: when they change, nothing after them can be extended.
        extended = self.chat.extend(self._prompt_ids, self._said_ids, news, before) if tools == before else None
        self._tools, self._prompt_ids = tools, extended or self.chat.render(self._messages, tools)
        if extended is not None:
            self.recorder.extend(extended[known:])
        else:
            self.recorder.fork(self._prompt_ids)

    async def release(self) -> None:
        """Let the engine forget the episode."""
        await release(self.engine, self._key, self.activity)
