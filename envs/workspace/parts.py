"""The parts of a workspace task template: a selector (which), an effect (what to do) and a manner (how it is said).

It knows neither the agent nor the reward: an effect's `solve` brings an app to the wanted end state, and that is all.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from agentgrpo.envs.workspace.world import World
from agentgrpo.tools.workspace import WorkspaceApp
from agentgrpo.types import JsonObject

# "told": everything is in the instruction; "asked": it leaves out words that the user tells when asked;
# "agreed": the user has to agree to a proposal; "changed": the user changes a word after the first report;
# "closed": calendar and mail are open one at a time.
Manner: TypeAlias = Literal["told", "asked", "agreed", "changed", "closed"]
Target: TypeAlias = Any  # a Contact, a Meeting or a Mail of a world; the kind says which
Sampler: TypeAlias = Callable[[World, Target, random.Random], JsonObject | None]
Solver: TypeAlias = Callable[[WorkspaceApp, World, Target, JsonObject], JsonObject | None]
Kind: TypeAlias = Literal["contact", "meeting", "mail"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Something an instruction can be about, and the words that mean it."""

    target: Target
    words: JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """A way to say which contact, meeting or mail is meant. `find` returns all that it can mean in a world."""

    name: str
    kind: Kind
    phrase: str
    find: Callable[[World], list[Choice]]
    tools: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What to do.

    `sample` draws the instruction's other words, None where it makes no sense. `solve` does it and returns the wanted
    answer's fields, None where no answer is wanted. `brief` is the wording that leaves the words `asked` out.
    """

    name: str
    kind: Kind  # of target
    wordings: tuple[str, ...]
    sample: Sampler
    solve: Solver
    tools: tuple[str, ...]
    brief: str = ""
    asked: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """One kind of task. Its goal is every word that defines it, also those that only the user knows."""

    level: int
    effect: Effect
    selector: Selector
    manner: Manner = "told"

    @property
    def name(self) -> str:
        """Effect, selector, and the manner where these two do not say it."""
        manner = [self.manner] if self.manner in ("asked", "changed", "closed") else []
        return "_".join([self.effect.name, self.selector.name, *manner])

    @property
    def tools(self) -> frozenset[str]:
        """Names of the tools a solution needs."""
        return frozenset(self.selector.tools + self.effect.tools)

    @property
    def hidden(self) -> tuple[str, ...]:
        """The words of a goal that the instruction leaves out."""
        return {"asked": self.effect.asked, "agreed": self.effect.asked, "changed": ("instead",)}.get(self.manner, ())

    def told(self, goal: JsonObject) -> JsonObject:
        """Return the words of a goal that stand in the instruction."""
        return {key: word for key, word in goal.items() if key not in self.hidden}

    def target(self, world: World, goal: JsonObject) -> Target:
        """Return what a goal is about."""
        return next(c.target for c in self.selector.find(world) if c.words.items() <= goal.items())

    def sample(self, world: World, rng: random.Random) -> JsonObject | None:
        """Return a goal and its instruction; None when the world has nothing to ask this for."""
        choices = self.selector.find(world)
        rng.shuffle(choices)
        for choice in choices:
            words = self._words(world, choice.target, rng)
            if words is not None:
                goal = choice.words | words
                told = {"which": self.selector.phrase.format(**goal)} | goal
                has_gaps = self.manner in ("asked", "agreed")
                wording = self.effect.brief if has_gaps else rng.choice(self.effect.wordings)
                return {"goal": goal, "instruction": wording.format(**told)}
        return None

    def _words(self, world: World, target: Target, rng: random.Random) -> JsonObject | None:
        words = self.effect.sample(world, target, rng)
        if words is None or self.manner != "changed":
            return words
        others = (self.effect.sample(world, target, rng) for _ in range(20))
        instead = next((other for other in others if other and other != words), None)
        return None if instead is None else words | {"instead": instead}

    def solve(self, app: WorkspaceApp, world: World, goal: JsonObject) -> JsonObject | None:
        """Bring an app from the world's start to the wanted end; return the fields of the wanted answer, if any."""
        wanted = goal | goal.get("instead", {})
        return self.effect.solve(app, world, self.target(world, goal), wanted)
