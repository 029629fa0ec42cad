"""Any Gymnasium environment as one an agent plays: its actions are a tool or bare text, its tasks are seeds.

It does not know a particular game: what a state looks like in words is a view's business, how it is solved an oracle's.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from agentgrpo.core import StepResult, ToolEnv, weigh
from agentgrpo.envs.gym_text.act import act_tool
from agentgrpo.envs.gym_text.game import Game, tasks_of
from agentgrpo.envs.gym_text.play import Play
from agentgrpo.envs.gym_text.scoring import Scoring
from agentgrpo.errors import EnvError, ToolError, nearest
from agentgrpo.tasks import require_split
from agentgrpo.tooling import Tool
from agentgrpo.types import JsonObject, Message, Task

INTERFACES = ("tool", "text")


class GymText(ToolEnv):
    """A Gymnasium environment, played in words.

    Args:
        id: Its Gymnasium id; "package:id" imports the package that has it.
        make_args: Its own arguments; {"call": "module:function", ...} stands for what the function makes of each
            task's `seed` and what else is given.
        view: How a state is described: "ansi", "json" or "module:function" (`wrappers.TextObservation`).
        actions: Words of the actions (`game.words_of`).
        instructions: The system message.
        interface: Whether an action is a call of the tool `act`, or the bare text of a message.
        success: An episode that the environment ended is a success if its last reward was at least this; None: above 0.
        terms: Reward terms: "outcome" (1 for a success) and "return" (the sum of the environment's own rewards).
        isolation: "inline" for an environment that never blocks, "process" for one with global state.
        unchecked: Checks of `env check` that do not apply to it, each with its reason.
        tasks: Rows with a "seed" each; None: one for each start (`seeded.seeded_tasks`).
        reward_weights: Weight of each reward term.
        render_mode: "ansi" or None, as in Gymnasium.
    """

    def __init__(
        self,
        *,
        id: str = "FrozenLake-v1",
        make_args: Mapping[str, Any] | None = None,
        view: str = "ansi",
        actions: Mapping[str, Any] | Sequence[str] | str | None = None,
        instructions: str = "",
        interface: Literal["tool", "text"] = "tool",
        success: float | None = None,
        terms: Sequence[str] = ("outcome",),
        isolation: Literal["inline", "thread", "process"] = "thread",
        unchecked: Mapping[str, str] | None = None,
        tasks: str | Path | Sequence[JsonObject] | None = None,
        reward_weights: Mapping[str, float] | None = None,
        render_mode: str | None = None,
    ) -> None:
        if interface not in INTERFACES:
            known = " or ".join(INTERFACES)
            raise EnvError(f"there is no interface '{interface}'; expected {known}.{nearest(interface, INTERFACES)}")
        self._scoring = Scoring(terms=tuple(terms), success=success)
        self._play = Play(Game.of(id, make_args, view), actions)
        self._instructions, self._interface = instructions, interface
        self.oracle: Callable[..., Generator[JsonObject, tuple[Message, ...], None]] | None
        self.oracle = self._solve if self._play.can_be_solved else None
        super().__init__(tasks=tasks, reward_weights=reward_weights, render_mode=render_mode)
        # This one's, not the class's.
        self.metadata = self.metadata | {"isolation": isolation, "unchecked": dict(unchecked or {})}

    @classmethod
    def tasks(
        cls,
        split: str = "train",
        *,
        id: str = "FrozenLake-v1",
        make_args: Mapping[str, Any] | None = None,
        view: str = "ansi",
    ) -> Sequence[JsonObject]:
        """Return the rows of `train` or `heldout`; no start is in both, unless there are few."""
        require_split(split, cls.splits, "a Gymnasium environment")
        return [task.row for task in tasks_of(Game.of(id, make_args, view), split)]

    def extra_tools(self) -> list[Tool]:
        """Return `act`, unless an action is the text of a message."""
        return [] if self._interface == "text" else [act_tool(self._play.words, self._play.move)]

    def reset_task(self, task: JsonObject) -> list[Message]:
        """Start with the task's seed; the messages are the instructions and what is seen."""
        system = [{"role": "system", "content": self._instructions}] if self._instructions else []
        return [*system, {"role": "user", "content": self._play.start(task["seed"])}]

    def respond(self, content: str) -> str | None:
        """Take the text for an action where that is the interface; else it ends the episode."""
        if self._interface == "tool":
            return None
        try:
            return self._play.move(content)
        except ToolError as error:
            return f"error: {error}"

    def is_done(self) -> bool:
        """Return whether the environment has ended the episode."""
        return self._play.is_ended

    def step(self, action: str) -> StepResult:
        """Step as any tool environment; the environment's own limit of steps truncates."""
        obs, reward, terminated, truncated, info = super().step(action)
        if self._play.is_cut and not terminated:
            info["reward_terms"], truncated = self.score(), True
            reward = weigh(info["reward_terms"], self.reward_weights)
        return obs, reward, terminated, truncated, info

    def reward(self) -> dict[str, float]:
        """Return the terms wanted."""
        return self._scoring.of(self._play.rewards, is_ended=self._play.is_ended)

    def snapshot(self) -> bytes:
        """Return the task and the moves made: the same moves from the same seed lead to the same state."""
        return json.dumps([self.task, self.answer, self._play.moves]).encode()

    def restore(self, data: bytes) -> None:
        """Go back to a snapshot by making its moves again."""
        self.task, self.answer, moves = json.loads(data)
        self._play.start(self.task["seed"])
        for move in moves:
            self._play.move(move)

    def close(self) -> None:
        """Close the Gymnasium environment."""
        self._play.close()
        super().close()

    def _shipped(self, split: str) -> tuple[Task, ...]:
        return tasks_of(self._play.game, split)

    def _solve(
        self, *, quality: float = 1.0, rng: random.Random | None = None
    ) -> Generator[JsonObject, tuple[Message, ...], None]:
        for word in self._play.solution(quality, rng or random.Random(0)):
            yield self.call("act", action=word) if self._interface == "tool" else self.say(word)
