"""The lockbox environment: press the digit that is shown, several times, then say that it is done.

It does not know who presses. Words, digits and reward are those of the comparison with TRL in bench/.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from agentgrpo.core import ToolEnv
from agentgrpo.errors import EnvError
from agentgrpo.tasks import require_split
from agentgrpo.tooling import Tool, as_tool
from agentgrpo.types import Json, JsonObject, Message

_DELAYS = random.Random(1)  # of all boxes: how long a press takes is no part of the episode
SPLITS = {"train": range(1000), "heldout": range(1000, 1200)}


class Lockbox(ToolEnv):
    """Press the digit shown each time; the reward is the fraction of presses that were right.

    Args:
        turns: Presses until the box says "done".
        latency: Seconds a press takes, to stand in for a slow tool.
        slow_share: Share of the presses that take ten times as long: the heavy tail of real tools.
        tool_kind: Whether the slow press blocks its thread ("sync") or awaits ("async").
        tasks: Rows with a "seed" each; None means the shipped ones.
        reward_weights: Weight of each reward term.
        render_mode: "ansi" or None.
    """

    metadata = {"isolation": "inline"}  # noqa: RUF012 (as Gymnasium declares it)
    system_prompt = "Press the shown digit each time until done."

    def __init__(
        self,
        *,
        turns: int = 4,
        latency: float = 0.0,
        slow_share: float = 0.0,
        tool_kind: Literal["sync", "async"] = "sync",
        tasks: str | Path | Sequence[JsonObject] | None = None,
        reward_weights: Mapping[str, float] | None = None,
        render_mode: str | None = None,
    ) -> None:
        if turns < 1 or latency < 0 or not 0 <= slow_share <= 1 or tool_kind not in ("sync", "async"):
            raise EnvError(
                f"a lockbox needs turns >= 1, latency >= 0, slow_share from 0 to 1 and tool_kind 'sync' or 'async', "
                f"got {turns}, {latency}, {slow_share} and {tool_kind!r}"
            )
        super().__init__(tasks=tasks, reward_weights=reward_weights, render_mode=render_mode)
        self.turns, self.latency, self.slow_share, self.tool_kind = turns, latency, slow_share, tool_kind
        self.digits: list[int] = []
        self.position = self.hits = 0
        if latency or tool_kind == "async":
            self.metadata = self.metadata | {"isolation": "thread"}  # this one's, not the class's

    @classmethod
    def tasks(cls, split: str = "train") -> Sequence[JsonObject]:
        """Return the rows of `train` or `heldout`."""
        require_split(split, SPLITS, "the lockbox")
        return [{"task_id": f"{split}-{index}", "seed": seed} for index, seed in enumerate(SPLITS[split])]

    def reset_task(self, task: JsonObject) -> str:
        """Draw the digits and show the first."""
        rng = random.Random(task["seed"])
        self.digits = [rng.randrange(10) for _ in range(self.turns)]
        self.position = self.hits = 0
        return self._shows()

    def extra_tools(self) -> list[Tool]:
        """Return `press`, blocking or awaiting."""
        press = as_tool(self.press)
        return [press if self.tool_kind == "sync" else replace(press, function=self._press_async, is_async=True)]

    def press(self, digit: int) -> str:
        """Press one digit.

        Args:
            digit: The digit.

        Returns:
            The next digit, or done.
        """
        time.sleep(self._delay())
        return self._press(digit)

    async def _press_async(self, digit: int) -> str:
        await asyncio.sleep(self._delay())
        return self._press(digit)

    def _delay(self) -> float:
        return self.latency if _DELAYS.random() >= self.slow_share else 10 * self.latency

    def _press(self, digit: int) -> str:
        if self.position < self.turns:
            self.hits += digit == self.digits[self.position]
            self.position += 1
        return self._shows()

    def reward(self) -> dict[str, float]:
        """Return the fraction of right presses as `outcome`."""
        return {"outcome": self.hits / self.turns}

    def oracle(
        self, *, quality: float = 1.0, rng: random.Random | None = None
    ) -> Generator[JsonObject, tuple[Message, ...], None]:
        """Press what is shown; below quality 1 each press is a random digit with probability 1 - quality."""
        rng = rng or random.Random(0)
        shown = self._shows()
        while digit := re.fullmatch(r"digit: (\d)", shown):
            choice = int(digit[1]) if rng.random() < quality else rng.randrange(10)
            messages = yield self.call("press", digit=choice)
            shown = messages[-1]["content"]
        yield self.say("ok")

    def snapshot(self) -> bytes:
        """Return the task and what was pressed."""
        return json.dumps([self.dump_episode(), self.digits, self.position, self.hits]).encode()

    def restore(self, data: bytes) -> None:
        """Go back to a snapshot, of this lockbox or another one with as many turns."""
        episode, self.digits, self.position, self.hits = json.loads(data)
        self.load_episode(episode)

    def state(self) -> Json:
        """Return the digits and what was pressed."""
        return {"digits": list(self.digits), "position": self.position, "hits": self.hits}

    def _shows(self) -> str:
        return "done" if self.position == self.turns else f"digit: {self.digits[self.position]}"
