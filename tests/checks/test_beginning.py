from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import gymnasium
import pytest
from pydantic import BaseModel

import agentgrpo as ag
from agentgrpo.checks.subject import NotApplicable, subject_of
from agentgrpo.envcheck import CHECKS
from agentgrpo.errors import EnvError
from agentgrpo.registry import resolve_env
from agentgrpo.tooling import Tool
from agentgrpo.types import JsonObject
from tests.checks.sound import Sound, failed, problem, results


def test_the_sound_environment_passes_everything() -> None:
    assert {name for name, result in results(Sound).items() if not result.passed} == set()


class Unready(Sound):
    def reset_task(self, task: JsonObject) -> str:
        raise RuntimeError("the database is missing")


class Mute(Sound):
    def reset_task(self, task: JsonObject) -> str:
        return " "


@pytest.mark.parametrize(
    ("env", "told"),
    [
        (Unready, "raised RuntimeError: the database is missing"),
        (Mute, "the agent is told no task"),
        ("CartPole-v1", "the observation is a ndarray, expected text: wrap the environment"),
    ],
)
def test_an_episode_that_cannot_begin_is_the_only_thing_said(env: Any, told: str) -> None:
    found = failed(env)
    assert list(results(env)) == list(found) == ["begins"]
    assert told in found["begins"]


class Rowless(Sound):
    @classmethod
    def tasks(cls, split: str = "train") -> list[JsonObject]:
        return []

    def reset_task(self, task: JsonObject) -> str:
        return super().reset_task(Sound.tasks()[0])  # type: ignore[return-value]


class Broken(Sound):
    @classmethod
    def tasks(cls, split: str = "train") -> list[JsonObject]:
        raise OSError("no disk")


class Twins(Sound):
    @classmethod
    def tasks(cls, split: str = "train") -> list[JsonObject]:
        return [row | {"task_id": "same"} for row in Sound.tasks(split)]


class Binary(Sound):
    @classmethod
    def tasks(cls, split: str = "train") -> list[JsonObject]:
        return [row | {"things": {1, 2}} for row in Sound.tasks(split)]


@pytest.mark.parametrize(
    ("env", "told"),
    [
        (Rowless, "no training tasks: return rows from tasks('train')"),
        (Broken, "raised OSError: no disk"),
        (Twins, "row 1: task_id 'same' is already that of row 0; ids must differ"),
        (Binary, "row 0: a row must be plain JSON data: Object of type set"),
    ],
)
def test_tasks_that_cannot_be_used(env: Any, told: str) -> None:
    assert told in failed(env)["tasks"]


class SameIds(Sound):
    @classmethod
    def tasks(cls, split: str = "train") -> list[JsonObject]:
        return [row | {"task_id": f"task-{i}"} for i, row in enumerate(Sound.tasks(split))]


class SameRows(Sound):
    @classmethod
    def tasks(cls, split: str = "train") -> list[JsonObject]:
        return [row | {"task_id": f"{split}-{i}"} for i, row in enumerate(Sound.tasks("train"))]


@pytest.mark.parametrize(
    ("env", "told"),
    [
        (SameIds, "task 'task-0' is both trained on and in the split 'heldout'"),
        (SameRows, "task 'heldout-0' of the split 'heldout' is training task 'train-0' under another id"),
    ],
)
def test_what_is_held_out_is_not_trained_on(env: Any, told: str) -> None:
    found = failed(env)
    assert found.keys() == {"splits"}
    assert told in found["splits"]


def test_rows_that_are_only_an_id_are_told_apart_by_it() -> None:
    class ById(Sound):
        @classmethod
        def tasks(cls, split: str = "train") -> list[JsonObject]:
            return [{"task_id": row["task_id"]} for row in Sound.tasks(split)]

        def reset_task(self, task: JsonObject) -> str:
            split, _, index = task["task_id"].partition("-")
            self.task |= Sound.tasks(split)[int(index)]
            return super().reset_task(self.task)  # type: ignore[return-value]

    assert failed(ById) == {}


def test_the_held_out_tasks_of_a_config_are_looked_at_in_place_of_the_shipped() -> None:
    rows = [row | {"task_id": f"mine-{i}"} for i, row in enumerate(Sound.tasks("train"))]
    found = {r.name: r for r in ag.check_env(resolve_env(Sound), tasks=2, heldout=ag.load_tasks(rows))}
    assert "'mine-0' of the split 'heldout' is training task 'train-0'" in found["splits"].detail
    found = {r.name: r for r in ag.check_env(resolve_env(Sound), tasks=2, heldout=())}
    assert found["splits"].passed is None


class Unread(Sound):
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, JsonObject]:
        obs, info = super().reset(options=options)
        return obs, info


def test_what_gymnasium_finds_is_passed_on_without_colours() -> None:
    found = failed(Unread)
    assert "seed" in found["gymnasium"]
    assert "\x1b" not in found["gymnasium"]


class Silent(Sound):
    @ag.tool
    def wipe(self, thing: str) -> str:
        return "wiped"


class Vague(Sound):
    @ag.tool
    def wipe(self, thing: Any) -> str:
        """Wipe a thing."""
        return "wiped"


class Verbose(Sound):
    @ag.tool
    def wipe(self, thing: str) -> str:
        return "wiped"

    wipe.__doc__ = "Wipe a thing. " * 500


class Doubled(Sound):
    """Not the fault of a ToolEnv, which refuses it by itself: of one that speaks for itself."""

    def _info(self, messages: list[JsonObject]) -> JsonObject:
        info = super()._info(messages)
        return info | {"tools": [*info["tools"], info["tools"][0]]}


class Crowded(Sound):
    def extra_tools(self) -> Iterable[Tool | Callable[..., Any]]:
        return [_long_tool(f"wipe_{i}") for i in range(40)]


class Bare(Sound):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(tools=[], **kwargs)


def _long_tool(name: str) -> Callable[..., Any]:
    def wipe(thing: str) -> str:
        return "wiped"

    wipe.__name__, wipe.__doc__ = name, "Wipe a thing. " * 50
    return ag.tool(wipe)


@pytest.mark.parametrize(
    ("env", "told"),
    [
        (Silent, "tool 'wipe' has no description: give it a docstring"),
        (Vague, "tool 'wipe': parameter 'thing' has no type; write thing: str"),
        (Verbose, "tool 'wipe': its schema takes 7,"),
        (Doubled, "two tools are called 'look'"),
        (Crowded, "the schemas of 42 tools take"),
    ],
)
def test_what_is_wrong_with_tools(env: Any, told: str) -> None:
    assert told in problem("tools", env)


def test_an_agent_without_tools_can_still_speak() -> None:
    with pytest.raises(NotApplicable, match=r"mark methods with @ag\.tool"):
        CHECKS["tools"](subject_of(resolve_env(Bare), 1, 0))


class Nested(BaseModel):
    """A model of models is inlined: every level of it stands in the prompt."""

    name: str
    inner: dict[str, str] = {}


def test_a_tool_that_cannot_be_described_is_refused_when_the_environment_is_found() -> None:
    class Untyped(Sound):
        @ag.tool
        def wipe(self, thing) -> str:  # type: ignore[no-untyped-def]
            """Wipe a thing."""
            return "wiped"

    class TwoOfOneName(Sound):
        @ag.tool(name="look")
        def wipe(self, thing: Nested) -> str:
            """Wipe a thing."""
            return "wiped"

    with pytest.raises(EnvError, match="tool 'wipe': parameter 'thing' has no type; write thing: str"):
        resolve_env(Untyped)
    with pytest.raises(EnvError, match="two tools are called 'look': rename one"):
        resolve_env(TwoOfOneName)


def test_an_environment_of_text_needs_no_tools() -> None:
    gymnasium.register("tests/Echo-v0", entry_point="tests.checks.test_beginning:Echo")
    found = results("tests/Echo-v0")
    assert found["tools"].passed is None
    assert {name for name, result in found.items() if result.passed is False} == {"tasks"}


class Echo(ag.AgentEnv):
    """Say what you are told to."""

    metadata = {"action_format": "text", "render_modes": []}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode, self.said = render_mode, False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, JsonObject]:
        super().reset(seed=seed)
        self.said = False
        return f"say the word {self.np_random.integers(1000, 9999)} twice", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, JsonObject]:
        return "go on", 0.0, action == "stop", False, {}
