"""A conversation as token ids: what a policy said stays as it was sampled, each prompt extends what is there.

It knows neither engines nor environments; every token it adds is in the episode's record.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from agentgrpo.chat import Chat, assistant_message
from agentgrpo.errors import ParseFailure
from agentgrpo.rollout.record import Recorder
from agentgrpo.types import AssistantMessage, Generation, JsonObject, Message


class TokenPath:
    """The ids of one episode so far. `prompt_ids` is what an engine sees next."""

    def __init__(self, recorder: Recorder, chat: Chat) -> None:
        self.recorder, self.chat = recorder, chat
        self.prompt_ids: list[int] = []
        self._messages: list[Message] = []
        self._tools: Sequence[JsonObject] = ()
        self._said_ids: tuple[int, ...] | None = ()  # None: nobody knows

    def begin(self, messages: Sequence[Message], tools: Sequence[JsonObject]) -> None:
        """Render the first prompt."""
        self._messages, self._tools = list(messages), tools
        self.prompt_ids = self.chat.render(messages, tools)
        self.recorder.start(messages, tools, self.prompt_ids)

    def read(self, token_ids: Sequence[int]) -> AssistantMessage:
        """Return the message that sampled ids stand for."""
        prefix = f"call_{len(self.recorder.turns)}"
        return self.chat.parse(token_ids, self.prompt_ids, self._tools, call_prefix=prefix)

    def add_sampled(self, generation: Generation, policy_version: int | None = None) -> None:
        """Take what was sampled, by default by the episode's own policy."""
        self.recorder.sampled(generation, policy_version)
        self._said_ids = generation.token_ids

    def add_written(self, action: JsonObject) -> None:
        """Take a message that this model did not sample: its ids are context, and train nothing."""
        self._said_ids = None
        with suppress(ParseFailure):  # then the next prompt is rendered anew
            self._said_ids = tuple(self.chat.completion(action))
            self.recorder.extend(self._said_ids)

    def listen(self, action: JsonObject, news: Sequence[Message], tools: Sequence[JsonObject]) -> None:
        """Extend the prompt by what is new, or render it anew and fork."""
        self._messages += [assistant_message(action), *news]
        # Tools stand in the system message: when they change, nothing after them can be extended.
        extended = self._extended(news) if list(tools) == list(self._tools) else None
        known = len(self.prompt_ids) + len(self._said_ids or ())
        self._tools, self.prompt_ids = tools, extended or self.chat.render(self._messages, tools)
        if extended is not None:
            self.recorder.extend(extended[known:])
        else:
            self.recorder.fork(self.prompt_ids)

    def _extended(self, news: Sequence[Message]) -> list[int] | None:
        if self._said_ids is None:
            return None
        return self.chat.extend(self.prompt_ids, self._said_ids, news, self._tools)
