"""Any Gymnasium environment as one an agent plays: its actions are a tool or bare text, its tasks are seeds.

It does not know a particular game: what a state looks like in words is a view's business, how it is solved an oracle's.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

from agentgrpo.core import StepResult, ToolEnv, weigh
from agentgrpo.envs.gym_text.game import Game, tasks_of, words_of
from agentgrpo.envs.gym_text.oracles import solver_of
from agentgrpo.envs.gym_text.wrappers import TextAction
from agentgrpo.errors import EnvError, TaskError, ToolError, nearest
from agentgrpo.tooling import Tool, as_tool
from agentgrpo.types import JsonObject, Message, Task

TERMS = ("outcome", "return")
SPLITS = ("train", "heldout")
INTERFACES = ("tool", "text")
_Oracle: TypeAlias = Callable[..., Generator[JsonObject, tuple[Message, ...], None]]


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
        tasks: Rows with a "seed" each; None: one for each start (`seeded.seeded_tasks`).
        reward_weights: Weight of each reward term.
        render_mode: "ansi" or None, as in Gymnasium.
    """

    splits = SPLITS

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
        tasks: str | Path | Sequence[JsonObject] | None = None,
        reward_weights: Mapping[str, float] | None = None,
        render_mode: str | None = None,
    ) -> None:
        for name, value, known in (*(("term", term, TERMS) for term in terms), ("interface", interface, INTERFACES)):
            if value not in known:
                raise EnvError(f"there is no {name} '{value}'; expected {' or '.join(known)}.{nearest(value, known)}")
        self._game = Game(id=id, make_args=json.dumps(make_args or {}), view=view)
        self._actions, self._instructions, self._interface = actions, instructions, interface
        self._success, self._terms = success, tuple(terms)
        self._enter(0)
        self.oracle: _Oracle | None = self._solve if solver_of(self._text) else None
        super().__init__(tasks=tasks, reward_weights=reward_weights, render_mode=render_mode)
        self.metadata = self.metadata | {"isolation": isolation}

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
        if split not in SPLITS:
            raise TaskError(f"a Gymnasium environment has no split '{split}', it has {', '.join(SPLITS)}")
        return [task.row for task in tasks_of(Game(id=id, make_args=json.dumps(make_args or {}), view=view), split)]

    def extra_tools(self) -> list[Tool]:
        """Return `act`, unless an action is the text of a message."""
        words = self._text.words
        return [] if self._interface == "text" else [replace(_act(words and tuple(words)), function=self._move)]

    def reset_task(self, task: JsonObject) -> list[Message]:
        """Start with the task's seed; the messages are the instructions and what is seen."""
        if self._game.is_remade:
            self._enter(task["seed"])
        self._moves, self._rewards = [], []
        self._ended = self._cut = False
        seen = self._text.reset(seed=task["seed"])[0]
        system = [{"role": "system", "content": self._instructions}] if self._instructions else []
        return [*system, {"role": "user", "content": seen}]

    def respond(self, content: str) -> str | None:
        """Take the text for an action where that is the interface; else it ends the episode."""
        if self._interface == "tool":
            return None
        try:
            return self._move(content)
        except ToolError as error:
            return f"error: {error}"

    def is_done(self) -> bool:
        """Return whether the environment has ended the episode."""
        return self._ended

    def step(self, action: str) -> StepResult:
        """Step as any tool environment; the environment's own limit of steps truncates."""
        obs, reward, terminated, truncated, info = super().step(action)
        if self._cut and not terminated:
            info["reward_terms"], truncated = self.score(), True
            reward = weigh(info["reward_terms"], self.reward_weights)
        return obs, reward, terminated, truncated, info

    def reward(self) -> dict[str, float]:
        """Return the terms wanted."""
        last = self._rewards[-1] if self._ended else -float("inf")
        solved = last > 0 if self._success is None else last >= self._success
        terms = {"outcome": float(solved), "return": sum(self._rewards)}
        return {name: terms[name] for name in self._terms}

    def snapshot(self) -> bytes:
        """Return the task and the moves made: the same moves from the same seed lead to the same state."""
        return json.dumps([self.task, self.answer, self._moves]).encode()

    def restore(self, data: bytes) -> None:
        """Go back to a snapshot by making its moves again."""
        self.task, self.answer, moves = json.loads(data)
        self.reset_task(self.task)
        for move in moves:
            self._move(move)

    def close(self) -> None:
        """Close the Gymnasium environment."""
        self._text.close()
        super().close()

    def _shipped(self, split: str) -> tuple[Task, ...]:
        return tasks_of(self._game, split)

    def _enter(self, seed: int) -> None:
        if hasattr(self, "_text"):
            self._text.close()
        env = self._game.make(seed)
        self._text = TextAction(env, words_of(env, self._actions))

    def _move(self, action: str) -> str:
        if self._ended or self._cut:
            raise ToolError("it is over: no action makes a difference any more")
        try:
            self._text.action(action)
        except ValueError as error:
            raise ToolError(str(error)) from error
        seen, reward, self._ended, self._cut, _ = self._text.step(action)
        self._moves.append(action)
        self._rewards.append(reward)
        return str(seen)

    def _solve(
        self, *, quality: float = 1.0, rng: random.Random | None = None
    ) -> Generator[JsonObject, tuple[Message, ...], None]:
        """Make the moves of the environment's solver; below quality 1 each is any move with probability 1 - quality."""
        make, rng, words = solver_of(self._text), rng or random.Random(0), self._text.words or {}
        assert make is not None
        solver, word_of, last = make(), {value: word for word, value in words.items()}, None
        while True:
            if (wanted := solver.choose(last)) not in word_of:
                raise EnvError(f"the way to solve {self._game.id} takes action {wanted}, for which there is no word: name it")
            word = word_of[wanted] if rng.random() < quality else rng.choice(list(words))
            last = words[word]
            yield self.call("act", action=word) if self._interface == "tool" else self.say(word)


@lru_cache(maxsize=64)  # environments are made by the thousand
def _act(words: tuple[str, ...] | None) -> Tool:
    def act(action: str) -> str:
        """Make a move and see what it led to."""
        raise NotImplementedError

    if words:
        act.__annotations__["action"] = Literal[words]
    return as_tool(act)
