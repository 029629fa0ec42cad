from __future__ import annotations

import json
import random
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import agentgrpo as ag
from agentgrpo.baselines import MOST_STEPS, RANDOM_CALLS, RANDOM_STEPS, made_up, made_up_call, play, random_value
from agentgrpo.envs.lockbox.env import Lockbox
from agentgrpo.errors import EnvError
from agentgrpo.registry import resolve_env
from agentgrpo.tooling import as_tool
from agentgrpo.types import JsonObject, Message

SHOP = resolve_env("shop")
TASK = ag.load_tasks(SHOP.tasks("train"))[1]


def test_the_oracle_succeeds_in_as_many_turns_as_it_needs() -> None:
    played = play(SHOP, TASK, "oracle", seed=0)
    assert (played.reward, played.is_success, played.has_ended, played.error_count) == (1.0, True, True, 0)
    assert played.terms == {"outcome": 1.0, "side_effects": 0.0}
    assert [message["role"] for message in played.prompt] == ["system", "user"]
    assert len(played.tools) == 11
    assert len(played.turns) == len(played.actions) == played.call_count + 1
    assert played.turns[0][0] == {"content": "", **json.loads(played.actions[0])} | {"content": ""}


def test_nothing_says_nothing_and_calls_nothing() -> None:
    played = play(SHOP, TASK, "nothing", seed=0)
    assert (played.reward, played.has_ended, played.call_count) == (0.0, True, 0)
    assert played.actions == ('{"content": "", "tool_calls": []}',)


def test_random_is_seeded_and_ends() -> None:
    one, same, other = (play(SHOP, TASK, "random", seed=seed) for seed in (1, 1, 2))
    assert one == same
    assert one.actions != other.actions
    episodes = [play(SHOP, TASK, "random", seed=seed) for seed in range(40)]
    assert {episode.call_count for episode in episodes} == set(range(RANDOM_CALLS))
    assert all(episode.has_ended for episode in episodes)


class Chatty(Lockbox):
    """Answers whatever is said, so that no message ends it."""

    def respond(self, content: str) -> str:
        return "go on"


class Endless(Chatty):
    def oracle(
        self, *, quality: float = 1.0, rng: random.Random | None = None
    ) -> Generator[JsonObject, tuple[Message, ...], None]:
        while True:
            yield self.say("hello")


class Lazy(Lockbox):
    def oracle(
        self, *, quality: float = 1.0, rng: random.Random | None = None
    ) -> Generator[JsonObject, tuple[Message, ...], None]:
        yield self.call("press", digit=0)


class Hopeless(Lockbox):
    oracle = None  # type: ignore[assignment]


def test_what_does_not_end_is_cut_off_and_scored_as_it_stands() -> None:
    source = resolve_env(Chatty)
    played = play(source, ag.load_tasks(source.tasks())[0], "nothing", seed=0)
    assert (len(played.turns), played.has_ended, played.reward, played.terms) == (
        RANDOM_STEPS,
        False,
        0.0,
        {"outcome": 0},
    )


@pytest.mark.parametrize(
    ("env", "told"),
    [
        (Endless, f"had not ended after {MOST_STEPS} steps"),
        (Lazy, "was left by its oracle before its end after 1 steps"),
        (Hopeless, "has no oracle"),
    ],
)
def test_an_oracle_that_does_not_bring_it_to_an_end_is_told(env: Any, told: str) -> None:
    source = resolve_env(env)
    with pytest.raises(EnvError, match=told):
        play(source, ag.load_tasks(source.tasks())[0], "oracle", seed=0)


def test_without_tasks_the_seed_makes_the_episode() -> None:
    class Seeded(ag.ToolEnv):
        def reset_task(self, task: JsonObject) -> str:
            self.number = int(self.np_random.integers(10**6))
            return str(self.number)

        @ag.tool
        def look(self) -> str:
            """Look."""
            return str(self.number)

        def reward(self) -> float:
            return 0.0

    source = resolve_env(Seeded)
    prompts = [play(source, None, "nothing", seed=seed).prompt for seed in (0, 0, 1)]
    assert prompts[0] == prompts[1] != prompts[2]


SCHEMAS: list[tuple[JsonObject, Any]] = [
    ({"type": "string"}, "a"),
    ({"type": "string", "enum": ["x", "y"]}, "x"),
    ({"const": 4}, 4),
    ({"type": "integer", "minimum": 7}, 7),
    ({"anyOf": [{"type": "null"}, {"type": "boolean"}]}, True),
    ({"type": "array", "items": {"type": "integer"}}, []),
    ({"type": "object", "properties": {"a": {"type": "number"}, "b": {}}, "required": ["a"]}, {"a": 1.5}),
]


@pytest.mark.parametrize(("schema", "value"), SCHEMAS)
def test_made_up_values_fit_their_schema(schema: JsonObject, value: Any) -> None:
    assert made_up(schema) == value


KINDS = st.sampled_from(
    ["str", "int", "float", "bool", "list[int]", "int | None", "Literal['a', 'b']", "dict[str, int]"]
)


@settings(max_examples=60, deadline=None)
@given(st.lists(KINDS, min_size=1, max_size=4), st.integers(0, 2**32))
def test_made_up_and_random_arguments_are_accepted_by_the_tool(kinds: list[str], seed: int) -> None:
    names: dict[str, Any] = {}
    parameters = ", ".join(f"p{index}: {kind}" for index, kind in enumerate(kinds))
    exec(f"from typing import Literal\ndef act({parameters}) -> str:\n    return 'done'", names)
    tool, rng = as_tool(names["act"]), random.Random(seed)
    properties = tool.parameters["properties"]
    drawn = {name: random_value(schema, rng, ["seen words"]) for name, schema in properties.items()}
    for arguments in (made_up_call(tool.schema, 0)["arguments"], drawn):
        assert tool.call(arguments) == ("done", False)
