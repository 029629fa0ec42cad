"""Simulated users: who answers an agent's messages in a dialogue. A scripted one is here; the protocol fits any other.

It knows no environment, app or model: an environment hands over what was said and passes on what comes back, in
`ToolEnv.respond`. A user driven by a model is `agentgrpo.endpoint.user.ModelUser`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from agentgrpo.seeds import derive_seed
from agentgrpo.types import Message

AGREES, REFUSES, UNKNOWN = "Yes.", "No.", "I can not say."


class User(Protocol):
    """Somebody an agent talks to."""

    def reply(self, messages: Sequence[Message]) -> str | None:
        """Answer the last message, or return None to end the conversation.

        Args:
            messages: What user ("user") and agent ("assistant") said so far, without calls and their results; the
                first is what the user asked for, the last is the agent's.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """Something a user tells only when asked.

    `words` are those of which a question must hold one; `said` are wordings, of which the seed chooses one.
    """

    words: tuple[str, ...]
    said: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptedUser:
    """A user whose replies are a function of the seed and of what was said, so there is no state to keep or restore.

    A message with a question mark is a question. It gets the facts it asks for; or, when it asks for none and there is
    something the user has to agree to, `AGREES` or `REFUSES`; or else `UNKNOWN`. Any other message is a report: it gets
    the change of mind, once, and after that ends the conversation.

    Args:
        seed: Chooses the wordings.
        facts: What is told when asked for.
        accepted: Words a proposal must hold to be agreed to; none: nothing needs agreement.
        change: Wordings of a change of mind, said at the agent's first report, and again to who asks for facts later;
            none: the user keeps to what was said.
        patience: Replies until the user has had enough and ends the conversation.
    """

    seed: int
    facts: tuple[Fact, ...] = ()
    accepted: frozenset[str] = frozenset()
    change: tuple[str, ...] = ()
    patience: int = 10

    def reply(self, messages: Sequence[Message]) -> str | None:
        """Answer the last message, or return None to end the conversation."""
        said = [str(message["content"]) for message in messages if message["role"] == "user"]
        heard = str(messages[-1]["content"]) if messages else ""
        if len(said) > self.patience:
            return None
        change = self._worded("change", self.change)
        has_changed = bool(change) and change in said[1:]
        if "?" not in heard:
            return None if has_changed else change or None
        return self._answer(_words(heard), change if has_changed else "")

    def _answer(self, words: frozenset[str], change: str) -> str:
        asked = [fact for fact in self.facts if words.intersection(map(str.casefold, fact.words))]
        if asked:
            told = [self._worded(fact.words[0], fact.said) for fact in asked]
            return " ".join([*told, change]).strip()
        if self.accepted:
            return AGREES if words.issuperset(map(str.casefold, self.accepted)) else REFUSES
        return UNKNOWN

    def _worded(self, name: str, wordings: Sequence[str]) -> str:
        return wordings[derive_seed(self.seed, name) % len(wordings)] if wordings else ""


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text.casefold()))
