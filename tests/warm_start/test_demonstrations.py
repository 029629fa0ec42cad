"""Environments that cannot demonstrate."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

import pytest

import agentgrpo as ag
from agentgrpo.errors import EnvError
from agentgrpo.registry import resolve_env
from agentgrpo.tasks import load_tasks
from agentgrpo.warm_start.demonstrations import demonstrations


class NoOracle(ag.ToolEnv):
    """Has no oracle."""

    @classmethod
    def tasks(cls, split: str = "train") -> list[dict[str, Any]]:
        return [{"task_id": "one"}]

    def reset_task(self, task: dict[str, Any]) -> str:
        return "Go."

    @ag.tool
    def go(self, where: str = "") -> str:
        """Go."""
        if where == "down":
            raise ag.ToolFailure("the lift is broken")
        return "gone"

    def reward(self) -> float:
        return 1.0


class Stops(NoOracle):
    def oracle(self, *, quality: float = 1.0, rng: random.Random | None = None) -> Iterator[dict[str, Any]]:
        yield self.call("go")


class Never(NoOracle):
    def oracle(self, *, quality: float = 1.0, rng: random.Random | None = None) -> Iterator[dict[str, Any]]:
        for _ in itertools.count():
            yield self.call("go")


class Breaks(NoOracle):
    def oracle(self, *, quality: float = 1.0, rng: random.Random | None = None) -> Iterator[dict[str, Any]]:
        yield self.call("go", where="down")


class NoTasks(Stops):
    @classmethod
    def tasks(cls, split: str = "train") -> list[dict[str, Any]]:
        return []


@pytest.mark.parametrize(
    ("env", "said"),
    [
        (NoOracle, r"NoOracle has no oracle\(\) to learn from: define one, or give \[model\] path a model"),
        (Stops, r"task 'one', stopped after 1 actions, before the episode's end: let it end with self.say"),
        (Never, r"task 'one', was not done after 1000 actions"),
        (Breaks, r"broke while its oracle played task 'one': the lift is broken"),
        (NoTasks, r"NoTasks has no training tasks to demonstrate: return rows from tasks\('train'\)"),
    ],
)
def test_an_environment_that_cannot_demonstrate_says_what_to_do(env: type[ag.ToolEnv], said: str) -> None:
    source = resolve_env(env)
    tasks = load_tasks(source.tasks("train")) if env is not NoTasks else ()
    with pytest.raises(EnvError, match=said):
        list(demonstrations(source, tasks, count=1, quality=1.0, seed=0))
