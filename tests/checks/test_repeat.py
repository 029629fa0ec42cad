from __future__ import annotations

import itertools
import json
import random
import time
from typing import Any, ClassVar

import pytest

from agentgrpo.types import JsonObject
from tests.checks.sound import Sound, failed, results


class ClockReset(Sound):
    def reset_task(self, task: JsonObject) -> str:
        return f"{super().reset_task(task)} It is {time.perf_counter_ns()}."


class ClockStep(Sound):
    def step(self, action: str) -> Any:
        obs, reward, terminated, truncated, info = super().step(action)
        return f"{obs} {time.perf_counter_ns()}", reward, terminated, truncated, info


class GlobalRandom(Sound):
    def reset_task(self, task: JsonObject) -> str:
        return f"{super().reset_task(task)} Your number is {random.random()}."


COUNTER = itertools.count()


class Counting(Sound):
    def reset_task(self, task: JsonObject) -> str:
        return f"{super().reset_task(task)} You are number {next(COUNTER)}."


@pytest.mark.parametrize(
    ("env", "where"),
    [(ClockReset, "reset gave"), (ClockStep, "step 1 gave"), (GlobalRandom, "reset gave"), (Counting, "reset gave")],
)
def test_an_episode_that_does_not_repeat(env: Any, where: str) -> None:
    found = failed(env)
    assert f"with the same seed and actions {where}" in found["determinism"]
    assert (
        "draw only from self.np_random, read no clock, and keep nothing on the class or the module"
        in (found["determinism"])
    )
    assert results(env)["leaks"].passed is None  # one cause, said once


class OnTheClass(Sound):
    shelf: ClassVar[dict[str, str]] = {}

    def reset_task(self, task: JsonObject) -> Any:
        told = super().reset_task(task)
        self.shelf.clear()
        self.shelf.update(self.things)
        self.things = self.shelf
        return told


class GlobalSeed(Sound):
    """As TextArena does: alone it repeats, beside another it does not."""

    def reset_task(self, task: JsonObject) -> Any:
        random.seed(task["task_id"])
        return super().reset_task(task)

    def reward(self) -> Any:
        return super().reward() | {"luck": 0.0}

    def step(self, action: str) -> Any:
        obs, reward, terminated, truncated, info = super().step(action)
        return f"{obs} {random.random()}", reward, terminated, truncated, info


class OwnProcess(GlobalSeed):
    metadata = {"isolation": "process"}  # noqa: RUF012


def test_episodes_that_share_state_side_by_side() -> None:
    for env in (OnTheClass, GlobalSeed):
        found = failed(env)
        assert "while another episode ran" in found["leaks"]
        assert "keep it on self, not on the class, the module or a global random generator" in found["leaks"]
    assert "leaks" not in failed(OwnProcess)


class Leftover(Sound):
    count = 0

    def step(self, action: str) -> Any:
        self.count += 1
        obs, reward, terminated, truncated, info = super().step(action)
        return f"{obs} ({self.count})", reward, terminated, truncated, info


def test_an_environment_that_keeps_something_of_the_episode_before() -> None:
    found = failed(Leftover)
    assert found.keys() >= {"leaks"}
    assert "in an environment that was used before step 1 gave" in found["leaks"]
    assert "reset_task leaves something of the episode before" in found["leaks"]


class HalfSaved(Sound):
    """Restores into the environment it came from only: the task stays that of whoever restores."""

    def restore(self, data: bytes) -> None:
        _, self.answer, self.things = json.loads(data)


class Unsaved(Sound):
    def restore(self, data: bytes) -> None:
        self.task, self.answer, _ = json.loads(data)


class Untold(Sound):
    """What was not restored shows in the score alone: the state is not told."""

    state = None  # type: ignore[assignment]

    def restore(self, data: bytes) -> None:
        self.task, self.answer, _ = json.loads(data)


@pytest.mark.parametrize(
    ("env", "told"),
    [
        (HalfSaved, "after another environment's restore(snapshot()), at the start, step 3 gave"),
        (Unsaved, "restore(snapshot()) gave another state"),
        (Untold, "restore(snapshot())"),
    ],
)
def test_a_restore_that_restores_too_little(env: Any, told: str) -> None:
    assert told in failed(env)["snapshot"]


def test_without_snapshot_there_is_nothing_to_go_back_to() -> None:
    class Plain(Sound):
        snapshot = None  # type: ignore[assignment]

    assert results(Plain)["snapshot"].passed is None
