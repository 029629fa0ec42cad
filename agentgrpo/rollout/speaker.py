"""Who acts in an episode: what it hears, and what it says next. It knows neither environments nor rewards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from agentgrpo.activity import Activity
from agentgrpo.chat import Chat
from agentgrpo.engines import Engine
from agentgrpo.rollout.record import Recorder
from agentgrpo.rollout.token_path import TokenPath
from agentgrpo.rollout.turn import Limits, generate, release
from agentgrpo.types import AssistantMessage, FinishReason, Generation, JsonObject, Message, Sampling, StopReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One message of a speaker."""

    message: AssistantMessage
    finish_reason: FinishReason
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """A message that a speaker does not think of itself: one from a record, or one that a person wrote.

    `generation` is None where its ids are not known, or are of another tokenizer; `policy_version` sampled them.
    """

    message: AssistantMessage
    generation: Generation | None = None
    policy_version: int | None = None
    finish_reason: FinishReason = "stop"
    seconds: float = 0.0  # that it once took


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

    def repeat(self, given: Given) -> None:
        """Take a message as said, in place of `speak`."""
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
        self.recorder, self.engine, self.limits, self.activity = recorder, engine, limits, activity
        self._path = TokenPath(recorder, chat)
        self._sampling = replace(sampling, stop_token_ids=chat.stop_token_ids)
        self._key = str(recorder.key)

    def begin(self, messages: Sequence[Message], tools: Sequence[JsonObject]) -> None:
        """Render the first prompt."""
        self._path.begin(messages, tools)

    async def speak(self) -> Said | StopReason:
        """Sample one turn."""
        recorder, prompt_ids = self.recorder, self._path.prompt_ids
        room, shortage = self.limits.room(len(prompt_ids), recorder.sampled_count)
        if not room:
            return shortage
        request = replace(self._sampling, max_tokens=room)
        with self.activity.waiting(self._key, "generate", f"turn {len(recorder.turns)}"):
            generation, seconds = await generate(
                self.engine, recorder, prompt_ids, request, self.limits.generate_seconds
            )
        message = self._path.read(generation.token_ids)
        self._path.add_sampled(generation)
        if generation.finish_reason == "length" and not message.calls:
            return shortage  # cut off in mid-sentence: not an answer
        return Said(message=message, finish_reason=generation.finish_reason, seconds=seconds)

    def repeat(self, given: Given) -> None:
        """Take the ids as they were sampled; without any, the message is context."""
        if given.generation is not None:
            self._path.add_sampled(given.generation, given.policy_version)
        else:
            self._path.add_written(given.message.to_message())

    def listen(self, action: JsonObject, news: Sequence[Message], tools: Sequence[JsonObject]) -> None:
        """Extend the prompt by what is new, or render it anew and fork."""
        self._path.listen(action, news, tools)

    async def release(self) -> None:
        """Let the engine forget the episode."""
        await release(self.engine, self._key, self.activity)


class Mute:
    """Says nothing: the episode ends where its turn comes.

    Args:
        recorder: Of the episode.
        stop_reason: Why it ends.
    """

    def __init__(self, recorder: Recorder, stop_reason: StopReason) -> None:
        self.recorder, self.stop_reason = recorder, stop_reason

    def begin(self, messages: Sequence[Message], tools: Sequence[JsonObject]) -> None:
        """Note the prompt."""
        self.recorder.prompt, self.recorder.tools = tuple(messages), tuple(tools)

    async def speak(self) -> StopReason:
        """End it."""
        return self.stop_reason

    def repeat(self, given: Given) -> None:
        """Nothing is remembered."""

    def listen(self, action: JsonObject, news: Sequence[Message], tools: Sequence[JsonObject]) -> None:
        """Nothing is remembered."""

    async def release(self) -> None:
        """Nothing is held."""


class Reciter:
    """Says what it is given, in order, and leaves the rest of the episode to another speaker."""

    def __init__(self, after: Speaker, given: Sequence[Given]) -> None:
        self.after = after
        self._left = list(given)

    def begin(self, messages: Sequence[Message], tools: Sequence[JsonObject]) -> None:
        """Hear the messages an episode starts with."""
        self.after.begin(messages, tools)

    async def speak(self) -> Said | StopReason:
        """Say what comes next."""
        if not self._left:
            return await self.after.speak()
        given = self._left.pop(0)
        self.after.repeat(given)
        return Said(message=given.message, finish_reason=given.finish_reason, seconds=given.seconds)

    def repeat(self, given: Given) -> None:
        """Take a message as said."""
        self.after.repeat(given)

    def listen(self, action: JsonObject, news: Sequence[Message], tools: Sequence[JsonObject]) -> None:
        """Hear what an action led to."""
        self.after.listen(action, news, tools)

    async def release(self) -> None:
        """Give back what the episode held."""
        await self.after.release()
