"""Environments to play again: one that adds up, in many variants, and one of plain text. Children import this fast."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Generator, Iterable
from typing import Any

import gymnasium

from agentgrpo.core import ToolEnv, UnicodeText
from agentgrpo.envs.shop.env import Shop
from agentgrpo.errors import ToolFailure
from agentgrpo.tooling import Tool, as_tool, tool
from agentgrpo.types import JsonObject, Message

COUNT = 5  # calls of the oracle


class Adder(ToolEnv):
    """Adds up what it is given.

    Args:
        clock_from: The turn (from 1) from which on answers hold the time: what must not be in an environment.
        late_from: The turn after which a second tool is offered.
        breaks_at: The turn whose tool is down.
        ends_at: The total from which on the episode is over.
        seconds: That a call takes.
    """

    metadata = {"isolation": "inline"}  # noqa: RUF012
    system_prompt = "Add up."

    def __init__(
        self,
        *,
        clock_from: int = 0,
        late_from: int = 0,
        breaks_at: int = 0,
        ends_at: int = 0,
        seconds: float = 0.0,
        **more: Any,
    ) -> None:
        self.clock_from, self.late_from, self.breaks_at = clock_from, late_from, breaks_at
        self.ends_at, self.seconds = ends_at, seconds
        self.total = self.turn = 0
        super().__init__(**more)

    @classmethod
    def tasks(cls, split: str = "train") -> list[JsonObject]:
        return [{"task_id": f"{split}-{i}", "start": i} for i in range(20)]

    def reset_task(self, task: JsonObject) -> str:
        self.total, self.turn = task["start"], 0
        return f"Add to {self.total}."

    @tool
    def add(self, number: int) -> str:
        """Add a number."""
        time.sleep(self.seconds)
        self.turn += 1
        if self.turn == self.breaks_at:
            raise ToolFailure("the adder is down")
        self.total += number
        late = f" at {time.time_ns()}" if self.clock_from and self.turn >= self.clock_from else ""
        return f"{self.total}{late}"

    def double(self) -> str:
        """Double it."""
        self.turn += 1
        self.total *= 2
        return str(self.total)

    def extra_tools(self) -> Iterable[Tool]:
        return [as_tool(self.double)] if self.late_from and self.turn >= self.late_from else []

    def is_done(self) -> bool:
        return bool(self.ends_at) and self.total >= self.ends_at

    def reward(self) -> dict[str, float]:
        return {"outcome": float(self.answer == str(self.total)), "small": 1 / (1 + abs(self.total))}

    def state_hash(self) -> str:
        return f"{self.total}/{self.turn}"

    def state(self) -> JsonObject:
        return {"total": self.total}

    def oracle(self, *, quality: float, rng: random.Random) -> Generator[JsonObject, tuple[Message, ...], None]:
        said = str(self.total)
        for turn in range(COUNT):
            if self.late_from and turn >= self.late_from and rng.random() < 0.5:
                said = (yield self.call("double"))[0]["content"]
            else:
                said = (yield self.call("add", number=rng.randrange(100)))[0]["content"]
        yield self.say(said if rng.random() < quality else "I lost count")


class Saved(Adder):
    """Takes snapshots."""

    def snapshot(self) -> bytes:
        return json.dumps([self.dump_episode(), self.total, self.turn]).encode()

    def restore(self, data: bytes) -> None:
        episode, self.total, self.turn = json.loads(data)
        self.load_episode(episode)


class Forgetful(Saved):
    """Restores less than it saved."""

    def restore(self, data: bytes) -> None:
        super().restore(data)
        self.turn = 0


class Unrestorable(Saved):
    """Cannot go back at all."""

    def restore(self, data: bytes) -> None:
        raise RuntimeError("never")


class InThread(Adder):
    """The same in a thread."""

    metadata = {"isolation": "thread"}  # noqa: RUF012


class InProcess(Saved):
    """The same in a process."""

    metadata = {"isolation": "process"}  # noqa: RUF012


class DriftingShop(Shop):
    """The shop, but from the second step with a call on its tools tell the time: what a replay has to find."""

    def step(self, action: Any) -> Any:
        before = len(self.calls)
        obs, reward, terminated, truncated, info = super().step(action)
        self.steps_with_calls = getattr(self, "steps_with_calls", 0) + (len(self.calls) > before)
        if self.steps_with_calls >= 2 and len(self.calls) > before:
            info["messages"][0]["content"] += f" at {time.time_ns()}"
        return obs, reward, terminated, truncated, info


class Plain(gymnasium.Env[str, str]):
    """Text in, text out, without a word about messages: an environment from elsewhere."""

    observation_space = UnicodeText()
    action_space = UnicodeText()
    metadata = {"render_modes": [], "isolation": "inline", "action_format": "text"}  # noqa: RUF012

    def __init__(self, *, steps: int = 3) -> None:
        self.steps, self.count = steps, 0

    @staticmethod
    def tasks(split: str = "train") -> list[JsonObject]:
        return [{"task_id": f"{split}-{i}"} for i in range(3)]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, JsonObject]:
        super().reset(seed=seed)
        self.count = 0
        return f"Say something ({self.np_random.integers(1000)}).", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, JsonObject]:
        self.count += 1
        return f"You said {action}, {self.np_random.integers(1000)}.", 0.25, self.count >= self.steps, False, {}

    def oracle(self, *, quality: float, rng: random.Random) -> Generator[JsonObject, tuple[Message, ...], None]:
        while True:
            yield {"content": f"word {rng.randrange(10)}", "tool_calls": []}
