"""Task templates: kinds of task, from which rows are drawn, and those that pair what is meant with what to do with it.

It does not know any app, world, agent or reward: `solve` brings an app to the wanted end state, and that is all.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from agentgrpo.types import Json, JsonObject


class Template(Protocol):
    """One kind of task."""

    @property
    def name(self) -> str:
        """How rows name it."""
        ...

    @property
    def level(self) -> int:
        """How hard it is, from 1."""
        ...

    @property
    def tools(self) -> frozenset[str]:
        """Names of the tools a solution needs."""
        ...

    def sample(self, world: Any, rng: random.Random) -> JsonObject | None:
        """Return a goal (the instruction's parameters) and the instruction; None when the world has no such thing."""
        ...

    def solve(self, app: Any, world: Any, goal: JsonObject) -> Json:
        """Bring an app from the world's start to the wanted end; return the wanted answer, if any."""
        ...


class Target(Protocol):
    """What a task is about."""

    @property
    def words(self) -> JsonObject:
        """The words of the instruction that say so."""
        ...


A = TypeVar("A")  # app
W = TypeVar("W")  # world
T = TypeVar("T", bound=Target)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector(Generic[W, T]):
    """A way to say what is meant. `find` returns everything in a world that it can mean."""

    name: str
    phrase: str
    find: Callable[[W], list[T]]
    tools: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect(Generic[A, W, T]):
    """What to do with it. `sample` draws the instruction's other words, `solve` returns the wanted answer."""

    name: str
    wordings: tuple[str, ...]
    solve: Callable[[A, T, JsonObject], str | None]
    tools: tuple[str, ...]
    fits: Callable[[T], bool] = lambda target: True
    sample: Callable[[W, T, random.Random], JsonObject | None] = lambda world, target, rng: {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair(Generic[A, W, T]):
    """The template of a selector and an effect. A held-out one is a pair never trained on, of parts that are."""

    level: int
    effect: Effect[A, W, T]
    selector: Selector[W, T]

    @property
    def name(self) -> str:
        """Effect and selector."""
        return f"{self.effect.name}_{self.selector.name}"

    @property
    def tools(self) -> frozenset[str]:
        """Names of the tools a solution needs."""
        return frozenset(self.selector.tools + self.effect.tools)

    def targets(self, world: W) -> list[T]:
        """Return what this template can be about in a world."""
        return [target for target in self.selector.find(world) if self.effect.fits(target)]

    def sample(self, world: W, rng: random.Random) -> JsonObject | None:
        """Return a goal (the instruction's parameters) and its wording; None when the world has no such target."""
        targets = self.targets(world)
        target = rng.choice(targets) if targets else None
        words = self.effect.sample(world, target, rng) if target else None
        if target is None or words is None:
            return None
        goal, wording = target.words | words, rng.choice(self.effect.wordings)
        return {"goal": goal, "instruction": wording.format(which=self.selector.phrase.format(**goal), **goal)}

    def solve(self, app: A, world: W, goal: JsonObject) -> str | None:
        """Bring an app from the world's start to the wanted end; return the wanted answer, if any."""
        target = next(target for target in self.targets(world) if target.words.items() <= goal.items())
        return self.effect.solve(app, target, goal)


def pair(level: int, effect: Effect[A, W, T], selector: Selector[W, T]) -> Pair[A, W, T]:
    """Return a template."""
    return Pair(level=level, effect=effect, selector=selector)


def please(wording: str) -> tuple[str, str]:
    """Return a request as it is and in its polite form."""
    return wording, f"Please {wording[0].lower()}{wording[1:]}"
