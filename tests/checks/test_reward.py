from __future__ import annotations

import math
from collections.abc import Generator
from random import Random
from typing import Any

import pytest

from agentgrpo.envs.lockbox.env import Lockbox
from agentgrpo.types import JsonObject, Message
from tests.checks.sound import Sound, failed, results


class Generous(Sound):
    def reward(self) -> Any:
        return {"outcome": 0.5}


class Lavish(Sound):
    def reward(self) -> Any:
        return {"outcome": 1.0, "politeness": 0.5}


class Headstart(Sound):
    """Pays for what was right from the start, until the agent answers."""

    def reward(self) -> Any:
        return super().reward() if self.answer is not None else {"outcome": 0.3}


class Harsh(Sound):
    def reward(self) -> Any:
        return super().reward() | {"idle": -0.2 * (self.things == self.task["things"])}


@pytest.mark.parametrize(
    ("env", "told"),
    [
        (Generous, "an episode cut off before its first action earns 0.5, not 0: what was there at the start"),
        (Lavish, "earns 1.5, not 0, more than the oracle may"),
        (Headstart, "an episode cut off before its first action earns 0.3, not 0"),
        (Harsh, "earns -0.2, not 0"),
    ],
)
def test_an_agent_that_does_nothing_earns_nothing(env: Any, told: str) -> None:
    assert told in failed(env)["nothing"]


class Stepwise(Sound):
    """Pays for every message, even an empty one."""

    def respond(self, content: str) -> str | None:
        return "go on"

    def step(self, action: str) -> Any:
        obs, _, terminated, truncated, info = super().step(action)
        return obs, 0.1, terminated, truncated, info

    score = None  # type: ignore[assignment]


def test_doing_nothing_for_long_earns_nothing_either() -> None:
    assert "an agent that does nothing earns 2, not 0, more than the oracle may" in failed(Stepwise)["nothing"]


class Lazy(Sound):
    def oracle(
        self, *, quality: float = 1.0, rng: Random | None = None
    ) -> Generator[JsonObject, tuple[Message, ...], None]:
        yield self.call("look", thing=self.task["thing"])


class Endless(Sound):
    def respond(self, content: str) -> str | None:
        return "go on"

    def oracle(
        self, *, quality: float = 1.0, rng: Random | None = None
    ) -> Generator[JsonObject, tuple[Message, ...], None]:
        while True:
            yield self.say("hello")


class Wrong(Sound):
    def oracle(
        self, *, quality: float = 1.0, rng: Random | None = None
    ) -> Generator[JsonObject, tuple[Message, ...], None]:
        yield self.say("done")


@pytest.mark.parametrize(
    ("env", "told"),
    [
        (Lazy, "the episode was left by its oracle before its end after 1 steps: let it end with self.say('done')"),
        (Endless, "the episode had not ended after 200 steps"),
        (Wrong, "the oracle earned 0, not 1 (outcome 0): either it does not solve the task, or the reward"),
    ],
)
def test_an_oracle_that_does_not_reach_1(env: Any, told: str) -> None:
    assert told in failed(env)["oracle"]


class NotANumber(Sound):
    def reward(self) -> Any:
        return {"outcome": math.nan}


class Infinite(Sound):
    def step(self, action: str) -> Any:
        obs, _, terminated, truncated, info = super().step(action)
        return obs, math.inf, terminated, truncated, info


class TwoMeasures(Sound):
    def step(self, action: str) -> Any:
        obs, reward, terminated, truncated, info = super().step(action)
        return obs, reward * 10, terminated, truncated, info


class Tiring(Sound):
    def reset_task(self, task: JsonObject) -> Any:
        self.asked = 0
        return super().reset_task(task)

    def reward(self) -> Any:
        self.asked += 1
        return {"outcome": 0.0, "asked": float(self.asked)}


@pytest.mark.parametrize(
    ("env", "told"),
    [
        (NotANumber, "gave outcome = nan; expected a finite number"),
        (Infinite, "step 1 gave reward inf, expected a finite number"),
        (TwoMeasures, "the steps earned 10 in all, score() then says 1"),
        (Tiring, "reward() must change nothing"),
    ],
)
def test_rewards_that_are_no_measure(env: Any, told: str) -> None:
    assert told in failed(env)["rewards"]


class Guessable(Sound):
    def reward(self) -> Any:
        return {"outcome": float(self.things != self.task["things"] or self.answer not in ("", None))}


def test_a_task_that_can_be_guessed() -> None:
    found = failed(Guessable)
    assert found.keys() == {"random"}
    assert "on average over 60 episodes, at most 0.25: the tasks can be guessed" in found["random"]


def test_weights_count_in_what_doing_nothing_earns() -> None:
    class Weighted(Sound):
        def reward(self) -> Any:
            return super().reward() | {"politeness": 1.0}

    assert "nothing" in failed(Weighted)
    assert failed(Weighted, reward_weights={"politeness": 0.0}) == {}


def test_without_an_oracle_it_is_said_what_is_not_known() -> None:
    class Plain(Lockbox):
        oracle = None  # type: ignore[assignment]

    found = results(Plain)["oracle"]
    assert (found.passed, found.detail) == (None, "no oracle(): nothing shows that the tasks can be solved")
