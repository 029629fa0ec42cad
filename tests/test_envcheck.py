from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Generator
from typing import Any

import pytest

import agentgrpo as ag
from agentgrpo.envcheck import CHECKS, CheckResult, check_env
from agentgrpo.envs.lockbox.env import Lockbox
from agentgrpo.registry import resolve_env
from agentgrpo.types import JsonObject, Message


def results(env: Any, **kwargs: Any) -> dict[str, CheckResult]:
    found = {result.name: result for result in check_env(resolve_env(env, **kwargs), tasks=5)}
    assert all(result.detail and "\n" not in result.detail for result in found.values())
    return found


def failed(found: dict[str, CheckResult]) -> set[str]:
    return {name for name, result in found.items() if result.passed is False}


@pytest.mark.parametrize("name", ["lockbox", "shop", "workspace"])
def test_shipped_environments_pass_everything(name: str) -> None:
    found = results(name)
    assert list(found) == list(CHECKS)
    assert all(result.passed for result in found.values())


def test_a_foreign_environment_gets_results_too() -> None:
    found = results("CartPole-v1")
    assert failed(found) == {"tasks", "gymnasium", "garbage"}
    assert found["oracle"].passed is None
    assert "\x1b" not in found["gymnasium"].detail


class Random(Lockbox):
    def _shows(self) -> str:
        return f"{super()._shows()} {time.perf_counter_ns()}"


class Fragile(Lockbox):
    def step(self, action: str) -> Any:
        json.loads(action)
        return super().step(action)


class Forgetful(Lockbox):
    def restore(self, data: bytes) -> None:
        super().restore(data)
        self.position = 0


class Generous(Lockbox):
    def reward(self) -> dict[str, float]:
        return {"outcome": 0.5}


class Lazy(Lockbox):
    def oracle(
        self, *, quality: float = 1.0, rng: random.Random | None = None
    ) -> Generator[JsonObject, tuple[Message, ...], None]:
        yield self.call("press", digit=0)


class Endless(Lockbox):
    def respond(self, content: str) -> str:
        return "go on"

    def oracle(
        self, *, quality: float = 1.0, rng: random.Random | None = None
    ) -> Generator[JsonObject, tuple[Message, ...], None]:
        while True:
            yield self.say("hello")


class Unready(Lockbox):
    def reset_task(self, task: JsonObject) -> str:
        raise RuntimeError("database is missing")


class Taskless(Lockbox):
    @classmethod
    def tasks(cls, split: str = "train") -> list[JsonObject]:
        raise OSError("no disk")


@pytest.mark.parametrize(
    ("env", "check", "told"),
    [
        (Random, "determinism", "gave at reset first"),
        (Fragile, "garbage", "step raised JSONDecodeError"),
        (Forgetful, "snapshot", r"after restore\(snapshot\(\)\) step 3 gave"),
        (Generous, "nothing", "an agent that does nothing earns 0.5, not 0"),
        (Generous, "oracle", "the oracle earned 0.5, not 1"),
        (Lazy, "oracle", "the oracle stopped after 1 actions"),
        (Endless, "oracle", "had not ended after 200 steps"),
        (Unready, "determinism", "raised RuntimeError: database is missing"),
        (Taskless, "tasks", "raised OSError: no disk"),
    ],
)
def test_what_is_wrong_is_said(env: Any, check: str, told: str) -> None:
    result = results(env)[check]
    assert result.passed is False
    assert re.search(told, result.detail), result.detail


def test_without_oracle_or_snapshot_calls_are_made_up() -> None:
    class Bare(ag.ToolEnv):
        def reset_task(self, task: JsonObject) -> str:
            return str(self.np_random.integers(100))

        @ag.tool
        def look(self, where: str, deep: bool = False) -> str:
            return f"{where} {deep}"

        def reward(self) -> float:
            return 0.0

    found = results(Bare)
    assert failed(found) == {"tasks"}
    assert found["snapshot"].passed is found["oracle"].passed is None
