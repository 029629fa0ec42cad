from __future__ import annotations

import json
import random
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentgrpo.config.run import load_config
from agentgrpo.envcheck import check_env
from agentgrpo.envs.gym_text.env import GymText
from agentgrpo.envs.gym_text.oracles import best_actions
from agentgrpo.envs.gym_text.views import taxi
from agentgrpo.errors import EnvError, TaskError
from agentgrpo.registry import resolve_env
from agentgrpo.types import JsonObject

EXAMPLES = Path(__file__).parents[2] / "examples"
VIEWS = "agentgrpo.envs.gym_text.views:"
MAPS = {"call": "gymnasium.envs.toy_text.frozen_lake:generate_random_map", "size": 4}
LAKE: JsonObject = {"make_args": {"is_slippery": False}, "actions": ["left", "down", "right", "up"]}
MAPPED: JsonObject = {"make_args": {"is_slippery": False, "desc": MAPS}}
TAXI: JsonObject = {
    "id": "Taxi-v4",
    "view": f"{VIEWS}taxi",
    "actions": ["south", "north", "east", "west", "pickup", "dropoff"],
}
BLACKJACK: JsonObject = {
    "id": "Blackjack-v1",
    "view": f"{VIEWS}blackjack",
    "actions": ["stick", "hit"],
    "unchecked": {"random": "who stands or hits blindly often wins"},
}
CLIFF: JsonObject = {"id": "CliffWalking-v1", "success": -1}
BABYAI: JsonObject = {"id": "minigrid:BabyAI-GoToLocalS6N4-v0", "view": f"{VIEWS}minigrid"}
needs_minigrid = pytest.mark.skipif(find_spec("minigrid") is None, reason="minigrid is not installed")


def play(env: GymText, seed: int, quality: float = 1.0) -> tuple[float, list[str]]:
    """Let the oracle play; return the reward and what was seen."""
    assert env.oracle is not None
    seen = [env.reset(options={"task": {"seed": seed}})[0]]
    oracle = env.oracle(quality=quality, rng=random.Random(seed))
    action = next(oracle)
    while True:
        obs, reward, terminated, truncated, info = env.step(json.dumps(action))
        seen.append(obs)
        if terminated or truncated:
            return float(reward), seen
        action = oracle.send(tuple(info["messages"]))


def act(env: GymText, *words: str) -> Any:
    """Make moves by the tool and return what the last gave."""
    for word in words:
        result = env.step(json.dumps(env.call("act", action=word)))
    return result


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(LAKE, id="lake"),
        pytest.param(
            LAKE | {"make_args": {"is_slippery": False, "desc": MAPS}, "view": f"{VIEWS}frozen_lake"}, id="maps"
        ),
        pytest.param(LAKE | {"interface": "text"}, id="text"),
        pytest.param(TAXI, id="taxi"),
        pytest.param(CLIFF, id="cliff"),
        pytest.param(BLACKJACK, id="blackjack"),
        pytest.param(BABYAI, id="babyai", marks=needs_minigrid),
        pytest.param(BABYAI | {"view": f"{VIEWS}minigrid_map", "interface": "text"}, id="map", marks=needs_minigrid),
    ],
)
def test_it_is_sound_and_can_be_solved(arguments: JsonObject) -> None:
    source = resolve_env("gym", **arguments)
    found = {result.name: result for result in check_env(source, tasks=3)}
    assert [result for result in found.values() if result.passed is False] == []
    assert found["snapshot"].passed
    assert found["oracle"].passed is (None if arguments.get("id") == "Blackjack-v1" else True)


def test_an_action_is_a_call_of_one_tool_by_default() -> None:
    env = GymText(**LAKE, instructions="Walk to the goal.")
    obs, info = env.reset(options={"task": {"seed": 0}})
    assert [message["role"] for message in info["messages"]] == ["system", "user"]
    assert obs == "[S]FFF\nFHFH\nFFFH\nHFFG"
    function = info["tools"][0]["function"]
    assert function["name"] == "act"
    assert function["parameters"]["properties"]["action"]["enum"] == ["left", "down", "right", "up"]
    assert act(env, "right")[0] == "  (Right)\nS[F]FF\nFHFH\nFFFH\nHFFG"


def test_an_invalid_action_is_an_error_and_no_step() -> None:
    tool, text = GymText(**LAKE), GymText(**LAKE, interface="text")
    for env in (tool, text):
        env.reset(options={"task": {"seed": 0}})
    obs, _, terminated, truncated, info = act(tool, "jump")
    assert info["messages"][0]["is_error"]
    assert "expected 'left', 'down', 'right' or 'up'" in obs
    assert not (terminated or truncated)
    assert text.step("I go right")[0].startswith("error: there is no action 'I go right'")
    assert text.step("right")[0] == act(tool, "right")[0]  # nothing happened before


def test_moves_after_the_end_are_told_so() -> None:
    env = GymText(**LAKE)
    env.reset(options={"task": {"seed": 0}})
    calls = [{"id": str(n), "name": "act", "arguments": {"action": w}} for n, w in enumerate(["right", "down", "left"])]
    _, reward, terminated, _, info = env.step(json.dumps({"content": "", "tool_calls": calls}))
    assert (reward, terminated, info["reward_terms"]) == (0.0, True, {"outcome": 0.0})  # the hole below
    assert [message["is_error"] for message in info["messages"]] == [False, False, True]


def test_success_is_what_the_last_reward_says() -> None:
    env = GymText(**CLIFF, actions=["up", "right", "down", "left"], terms=["outcome", "return"])
    env.reset(options={"task": {"seed": 0}})
    reward, terminated, terms = [act(env, "up", *["right"] * 11, "down")[place] for place in (1, 2, 4)]
    assert (reward, terminated, terms["reward_terms"]) == (1.0 - 13, True, {"outcome": 1.0, "return": -13.0})
    dry = GymText(**TAXI)
    assert play(dry, 0)[0] == 1.0
    assert dry.score() == {"outcome": 1.0}


def test_the_environments_own_limit_truncates_and_scores() -> None:
    env = GymText(**LAKE | {"make_args": {"is_slippery": False, "max_episode_steps": 2}}, terms=["return"])
    env.reset(options={"task": {"seed": 0}})
    _, _, terminated, truncated, info = act(env, "left", "left")
    assert (terminated, truncated, info["reward_terms"]) == (False, True, {"return": 0.0})


def test_held_out_starts_are_never_trained_on() -> None:
    rows = {split: GymText.tasks(split, id="Taxi-v4", view=TAXI["view"]) for split in ("train", "heldout")}
    env = GymText(**TAXI)
    starts = {split: [env.reset(options={"task": row})[0] for row in rows[split]] for split in ("train", "heldout")}
    assert (len(starts["train"]), len(starts["heldout"])) == (257, 43)  # of 300
    assert len(set(starts["train"] + starts["heldout"])) == 300
    assert env.reset(options={"task_id": rows["heldout"][0]["task_id"]})[0] == starts["heldout"][0]
    assert len(GymText.tasks("train")) == 1000  # one start: seeds of whatever noise there is


def test_each_task_may_have_an_environment_of_its_own() -> None:
    maps = MAPPED["make_args"]
    env = GymText(**LAKE | MAPPED)
    first, second, again = (env.reset(options={"task": {"seed": seed}})[0] for seed in (1, 2, 1))
    assert first == again != second
    rows = GymText.tasks("heldout", make_args=maps)
    assert (len(rows), len({row["seed"] for row in rows})) == (200, 200)
    assert not {row["seed"] for row in rows} & {row["seed"] for row in GymText.tasks("train", make_args=maps)}


def test_noise_is_the_seeds_and_the_oracle_makes_the_best_of_it() -> None:
    env = GymText()  # slippery
    assert play(env, 3)[1] == play(env, 3)[1]
    rewards = [play(env, seed)[0] for seed in range(60)]
    assert 0.6 < sum(rewards) / len(rewards) < 1.0  # FrozenLake's best is 0.74 within 100 steps, its own threshold 0.7


def test_a_worse_oracle_earns_less() -> None:
    env = GymText(**LAKE)
    means = [sum(play(env, seed, quality)[0] for seed in range(40)) / 40 for quality in (1.0, 0.5, 0.0)]
    assert means[0] == 1.0
    assert means == sorted(means, reverse=True)
    assert means[2] < 0.2


def test_the_planner_takes_the_shorter_of_two_ways() -> None:
    table = {
        0: {0: [(1.0, 0, 0.0, False)], 1: [(1.0, 1, 0.0, False)], 2: [(1.0, 2, 0.0, False)]},
        1: {0: [(1.0, 2, 0.0, False)], 1: [(1.0, 0, 0.0, False)], 2: [(1.0, 1, 0.0, False)]},
        2: {0: [(0.5, 0, 0.0, False), (0.5, 2, 0.0, False)], 1: [(1.0, 2, 1.0, True)], 2: [(1.0, 0, 0.0, False)]},
    }
    assert best_actions(table).tolist() == [2, 0, 1]
    assert best_actions(table).dtype == np.intp


def test_a_view_says_where_the_walls_are() -> None:
    cab: Any = resolve_env("gym", **TAXI).make().unwrapped
    cab.reset(options={"task": {"seed": 0}})
    inner = cab._play._env.unwrapped
    seen = json.loads(taxi(inner, inner.encode(0, 1, 4, 0)))
    assert seen == {"row": 0, "column": 1, "passenger": "taxi", "destination": "R", "open": ["south", "west"]}
    seen = json.loads(taxi(inner, inner.encode(4, 4, 3, 2)))
    assert (seen["open"], seen["passenger"], seen["destination"]) == (["north", "west"], "B", "Y")


def test_configs_that_cannot_work_are_refused_with_the_reason() -> None:
    bad: list[tuple[JsonObject, str]] = [
        ({"id": "FrozenLake-v99"}, "expected an id Gymnasium knows"),
        ({"id": "no_such_package_here:Game-v0"}, "of a package that is installed"),
        ({"actions": ["left", "right"]}, "has 4 actions, 2 words are given"),
        ({"interface": "voice"}, "there is no interface 'voice'; expected tool or text"),
        ({"terms": ["result"]}, "there is no term 'result'"),
        ({"make_args": {"no_such_argument": 1}}, "cannot make the Gymnasium environment"),
        ({"make_args": {"desc": {"call": "gymnasium:no_such"}}}, "make_args.desc.call = .* has no function"),
        ({"make_args": {"desc": MAPS | {"size": "four"}}}, "make_args.desc: "),
        ({"id": "CartPole-v1", "view": "json", "actions": {"left": 0, "right": 2}}, "'right' = 2 is not in"),
    ]
    for arguments, reason in bad:
        with pytest.raises(EnvError, match=reason):
            GymText(**arguments)
    with pytest.raises(EnvError, match="give a pattern of numbers as actions"):
        GymText(id="Pendulum-v1", view="json")
    with pytest.raises(TaskError, match="no split 'test'"):
        GymText.tasks("test")


def test_numbers_as_actions_are_a_pattern() -> None:
    env = GymText(id="Pendulum-v1", view="json", actions=r"(-?[\d.]+)", interface="text")
    assert env.oracle is None
    env.reset(options={"task": {"seed": 0}})
    assert env.step("0.5")[0].startswith("[")
    assert env.step("5.0")[0].startswith("error: got '5.0'")


@needs_minigrid
def test_a_partial_view_is_relative_to_the_agent() -> None:
    env = GymText(**BABYAI | {"id": "minigrid:BabyAI-GoToLocal-v0"})
    seen = json.loads(env.reset(options={"task": {"seed": 1}})[0])
    assert (seen["mission"], seen["free"], seen["then"]) == ("go to the purple box", 3, "wall")
    assert seen["sees"] == [
        "grey box 2 left",
        "purple box 1 forward 1 left",
        "red key 1 forward 2 left",
        "green key 2 forward 2 right",
        "grey key 2 forward 3 right",
    ]


@needs_minigrid
def test_the_whole_grid_tells_grey_from_green() -> None:
    env = GymText(**BABYAI | {"id": "minigrid:BabyAI-GoToLocal-v0", "view": f"{VIEWS}minigrid_map"})
    assert env.reset(options={"task": {"seed": 1}})[0].split("\n") == [
        "mission: go to the purple box",
        "WxWxWxWxWxWxWxWx",
        "Wx            Wx",
        "Wx        KGKxWx",
        "WxKRBP        Wx",
        "WxBx  ^^      Wx",
        "Wx            Wx",
        "WxKYKY      AxWx",
        "WxWxWxWxWxWxWxWx",
    ]


@needs_minigrid
def test_babyai_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    env = GymText(**BABYAI | {"id": "minigrid:BabyAI-GoToLocal-v0"})
    for seed in range(200):
        env.reset(options={"task": {"seed": seed}})
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("name", ["frozenlake", "taxi", pytest.param("babyai", marks=needs_minigrid)])
def test_the_examples_environment_is_sound(name: str) -> None:
    config = load_config(EXAMPLES / f"{name}.toml")
    source = resolve_env(config.env, **config.env_args)
    assert [r for r in check_env(source, tasks=4) if r.passed is False] == []
    assert len(source.tasks("train")) >= config.rollout.tasks_per_step
