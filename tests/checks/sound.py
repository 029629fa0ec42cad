"""An environment that passes every check. The broken ones differ from it in one thing."""

from __future__ import annotations

import json
import random
from collections.abc import Generator
from typing import Any

import pytest

import agentgrpo as ag
from agentgrpo.checks.subject import Problem, subject_of
from agentgrpo.envcheck import CHECKS, CheckResult, check_env
from agentgrpo.registry import resolve_env
from agentgrpo.types import JsonObject, Message

COLOURS = ("red", "green", "blue", "black", "white", "brown", "pink", "grey")


class Sound(ag.ToolEnv):
    """Look where a thing is, and paint it; painting another thing costs."""

    metadata = {"isolation": "inline"}  # noqa: RUF012 (as Gymnasium declares it)

    @classmethod
    def tasks(cls, split: str = "train") -> list[JsonObject]:
        rng = random.Random(split)
        things = {str(rng.randrange(1000, 9999)): rng.choice(COLOURS) for _ in range(4)}
        return [
            {"task_id": f"{split}-{i}", "things": things, "thing": rng.choice(list(things)), "colour": f"{split}{i}"}
            for i in range(8)
        ]

    def reset_task(self, task: JsonObject) -> str | list[Message]:
        self.things = dict(task["things"])
        return f"Paint {task['thing']} in {task['colour']}."

    @ag.tool
    def look(self, thing: str) -> str:
        """Say what colour a thing has."""
        if thing not in self.things:
            raise ag.ToolError(f"there is no {thing[:20]}")
        return str(self.things[thing])

    @ag.tool
    def paint(self, thing: str, colour: str) -> str:
        """Paint a thing."""
        if thing not in self.things:
            raise ag.ToolError(f"there is no {thing[:20]}")
        self.things[thing] = colour
        return "painted"

    def reward(self) -> Any:
        wanted = self.task["things"] | {self.task["thing"]: self.task["colour"]}
        return {"outcome": float(self.things == wanted)}

    def oracle(
        self, *, quality: float = 1.0, rng: random.Random | None = None
    ) -> Generator[JsonObject, tuple[Message, ...], None]:
        yield self.call("look", thing=self.task["thing"])
        yield self.call("paint", thing=self.task["thing"], colour=self.task["colour"])
        yield self.say("done")

    def snapshot(self) -> bytes:
        return json.dumps([self.task, self.answer, self.things]).encode()

    def restore(self, data: bytes) -> None:
        self.task, self.answer, self.things = json.loads(data)

    def state(self) -> JsonObject:
        return dict(self.things)


def results(env: Any, tasks: int = 5, **kwargs: Any) -> dict[str, CheckResult]:
    """Check an environment; whatever is found is one line."""
    found = {result.name: result for result in check_env(resolve_env(env, **kwargs), tasks=tasks)}
    assert all(result.detail and "\n" not in result.detail for result in found.values())
    return found


def problem(name: str, env: Any) -> str:
    """Make one check, which fails; return what it says."""
    with pytest.raises(Problem) as caught:
        CHECKS[name](subject_of(resolve_env(env), 1, 0))
    return str(caught.value)


def failed(env: Any, **kwargs: Any) -> dict[str, str]:
    """Return what the checks that failed say."""
    return {name: result.detail for name, result in results(env, **kwargs).items() if result.passed is False}
