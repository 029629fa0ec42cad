from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from agentgrpo.envs.gym_text.wrappers import TextAction, TextObservation, plain
from agentgrpo.errors import EnvError

WORDS = {"left": 0, "down": 1, "right": 2, "up": 3}


class Counter(gymnasium.Env[Any, Any]):
    """Counts its steps; takes whatever its space says."""

    metadata = {"render_modes": []}  # noqa: RUF012 (as Gymnasium declares it)

    def __init__(self, space: spaces.Space[Any]) -> None:
        self.action_space, self.observation_space = space, spaces.Discrete(100)
        self.actions: list[Any] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        return 0, {}

    def step(self, action: Any) -> tuple[int, float, bool, bool, dict[str, Any]]:
        self.actions.append(action)
        return len(self.actions), 0.5, False, False, {}


def counting(space: spaces.Space[Any], actions: Any) -> tuple[TextAction, Counter]:
    env = Counter(space)
    return TextAction(TextObservation(env, "json"), actions), env


def lake(actions: Any = None) -> TextAction:
    return TextAction(
        TextObservation(gymnasium.make("FrozenLake-v1", render_mode="ansi", is_slippery=False)), actions or WORDS
    )


def test_words_step_the_environment_and_its_picture_is_plain_text() -> None:
    env = lake()
    assert env.reset(seed=0)[0] == "[S]FFF\nFHFH\nFFFH\nHFFG"
    obs, reward, terminated, truncated, _ = env.step(" right ")
    assert (obs, reward, terminated, truncated) == ("  (Right)\nS[F]FF\nFHFH\nFFFH\nHFFG", 0.0, False, False)
    assert env.observation_space.contains(obs)
    assert env.action_space.contains("right")


def test_colours_that_say_where_one_is_become_brackets() -> None:
    assert plain("|\x1b[34;1mR\x1b[0m: |\x1b[43m \x1b[0m:\x1b[K G|\n") == "|[R]: |[ ]: G|"


def test_a_word_that_is_none_makes_no_step_and_is_told() -> None:
    env, counter = counting(spaces.Discrete(4), WORDS)
    env.reset(seed=0)
    obs, reward, terminated, truncated, info = env.step("wright")
    assert obs == "error: there is no action 'wright'; expected one of left, down, right, up. Did you mean 'right'?"
    assert (reward, terminated, truncated, info["error"]) == (0.0, False, False, obs.removeprefix("error: "))
    assert counter.actions == []


@given(st.text() | st.sampled_from(["left", "LEFT", "left right", "0"]))
def test_whatever_the_text_it_is_a_step_or_an_error(text: str) -> None:
    env, counter = counting(spaces.Discrete(4), WORDS)
    env.reset(seed=0)
    info = env.step(text)[4]
    assert ("error" in info) == (counter.actions == [])
    assert counter.actions == ([WORDS[text.strip()]] if text.strip() in WORDS else [])


def test_a_pattern_reads_numbers_into_the_space() -> None:
    one, counter = counting(spaces.Discrete(5, start=1), r"go (\d+)")
    assert one.step("go 5")[0] == "1"
    assert one.step("go 6")[0] == "error: got 'go 6', expected go (\\d+) within Discrete(5, start=1)"
    assert one.step("stop")[4]["error"].startswith("got 'stop'")
    assert counter.actions == [5]
    many, box = counting(spaces.Box(-1.0, 1.0, (2,), np.float32), r"(-?[\d.]+),\s*(-?[\d.]+)")
    assert many.step("0.5, -1")[0] == "1"
    assert many.step("0.5, 3")[4]["error"].startswith("got '0.5, 3'")
    assert box.actions[0].tolist() == [0.5, -1.0]
    several, grid = counting(spaces.MultiDiscrete([3, 3]), r"(\d+) (\d+)")
    assert several.step("2 0")[0] == "1"
    assert several.step("2 9999999999999999999999")[4]["error"]
    assert grid.actions[0].tolist() == [2, 0]


def test_what_cannot_be_used_is_refused_with_what_to_do() -> None:
    with pytest.raises(EnvError, match="'jump' = 7 is not in Discrete\\(4\\)"):
        lake({"jump": 7})
    with pytest.raises(EnvError, match="render_mode='ansi' where it has that"):
        TextObservation(gymnasium.make("Blackjack-v1"))
    for view, told in (
        ("nonsense", "expected ansi, json or module:function"),
        ("json:nothing", "json has no function 'nothing'"),
        ("agentgrpo.envs.gym_text.views:_STOPS", "has no function '_STOPS'"),
    ):
        with pytest.raises(EnvError, match=told):
            TextObservation(gymnasium.make("Blackjack-v1"), view)


def test_the_json_view_writes_any_observation() -> None:
    env = TextObservation(gymnasium.make("Blackjack-v1"), "json")
    assert env.reset(seed=0)[0] == "[11, 10, 0]"
    assert TextObservation(gymnasium.make("CartPole-v1"), "json").reset(seed=0)[0].startswith("[0.0")
