"""Scripted attempts: what oracles are written with. Below quality 1 each decision is sometimes a guess.

It knows no environment: a script yields canonical actions and is sent the messages they led to.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

from agentgrpo.types import Json, JsonObject, Message

T = TypeVar("T")
Script: TypeAlias = Generator[JsonObject, tuple[Message, ...], T]


class Actions(Protocol):
    """What builds canonical actions: a ToolEnv."""

    @property
    def tools(self) -> Mapping[str, object]:
        """The tools that are offered now, by name."""
        ...

    def call(self, name: str, /, **arguments: Any) -> JsonObject:
        """Return an action with one tool call."""
        ...

    def say(self, content: str) -> JsonObject:
        """Return an action without calls."""
        ...


class Attempt:
    """One solution attempt.

    Args:
        actions: Builds the actions.
        goal: The words of the instruction.
        quality: Probability that a decision is made, not guessed.
        rng: Source of the guesses.
    """

    def __init__(self, actions: Actions, goal: JsonObject, quality: float, rng: random.Random) -> None:
        self.actions, self.goal, self._quality, self._rng = actions, goal, quality, rng

    def ask(self, tool: str, /, **arguments: str | int) -> Script[Json]:
        """Make one call and return its parsed result."""
        messages = yield self.actions.call(tool, **arguments)
        return json.loads(messages[0]["content"])

    def is_careful(self) -> bool:
        """Whether the next decision is made, not guessed."""
        return self._rng.random() < self._quality

    def guess(self, choices: Sequence[T]) -> T:
        """Return any of the choices."""
        return self._rng.choice(choices)

    def decide(self, right: T, choices: Sequence[T]) -> T:
        """Return the right choice, or now and then any."""
        return right if self.is_careful() else self.guess(choices)


A = TypeVar("A", bound=Attempt)


def work(attempt: A, select: Callable[[A], Script[T]], act: Callable[[A, T], Script[str]]) -> Script[None]:
    """Find out what is meant, do something with it and give the final answer."""
    target = yield from select(attempt)
    answer = yield from act(attempt, target)
    yield attempt.actions.say(answer)
