from __future__ import annotations

import json

import pytest

from agentgrpo.core import ToolEnv
from agentgrpo.envs.app_env import AppEnv, Case, make_case
from agentgrpo.errors import EnvError
from agentgrpo.tooling import tool
from agentgrpo.tools.appstate import AppState
from agentgrpo.types import JsonObject


class Jar(AppState):
    schema = "CREATE TABLE jars (id TEXT PRIMARY KEY, beans INTEGER NOT NULL) WITHOUT ROWID;"


class Caseless(AppEnv):
    app_type = Jar


class Beans(AppEnv):
    """Put a bean into jar a, and say how many beans jar b has."""

    app_type = Jar
    app: Jar

    def __init__(self) -> None:
        super().__init__(tasks=[{"instruction": "Add one to a. How many has b?"}])

    def case_of(self, task: JsonObject) -> Case:
        app = Jar()
        app.insert("jars", [{"id": "a", "beans": 1}, {"id": "b", "beans": 7}])

        def solve() -> str:
            app.change("UPDATE jars SET beans = 2 WHERE id = 'a'")
            return "7"

        return make_case(app, solve)

    @tool
    def fill(self, jar: str, beans: int) -> str:
        """Set the beans of a jar."""
        self.app.change("UPDATE jars SET beans = ? WHERE id = ?", beans, jar)
        return "ok"


def earned(*fills: tuple[str, int], answer: str = "7") -> tuple[float, JsonObject]:
    env = Beans()
    assert env.reset(seed=0)[0] == "Add one to a. How many has b?"
    for jar, beans in fills:
        env.step(json.dumps(env.call("fill", jar=jar, beans=beans)))
    _, reward, _, _, info = env.step(json.dumps(env.say(answer)))
    return float(reward), info["reward_terms"]


def test_exactly_the_wanted_changes_and_the_answer_earn_one() -> None:
    assert earned(("a", 2)) == (1.0, {"outcome": 1.0, "side_effects": 0.0})
    assert earned(("a", 2), answer=" 7. ")[0] == 1.0
    assert earned(("b", 0), ("a", 5), ("b", 7), ("a", 2))[0] == 1.0  # what was taken back is no change


def test_anything_else_earns_nothing_and_side_effects_cost() -> None:
    assert earned() == (0.0, {"outcome": 0.0, "side_effects": 0.0})
    assert earned(("a", 2), answer="8")[1] == {"outcome": 0.0, "side_effects": 0.0}
    assert earned(("a", 2), answer="")[1] == {"outcome": 0.0, "side_effects": 0.0}
    assert earned(("a", 3))[1] == {"outcome": 0.0, "side_effects": -0.5}
    assert earned(("a", 2), ("b", 8))[1] == {"outcome": 0.0, "side_effects": -0.5}


def test_a_snapshot_holds_task_answer_calls_and_state() -> None:
    env, other = Beans(), Beans()
    env.reset(seed=0)
    env.step(json.dumps(env.call("fill", jar="a", beans=2)))
    env.step(json.dumps(env.say("7")))
    other.restore(env.snapshot())
    assert (other.task, other.answer, other.state()) == (env.task, env.answer, env.state())
    assert other.calls == env.calls
    assert [call.name for call in other.calls] == ["fill"]
    assert other.score() == {"outcome": 1.0, "side_effects": 0.0}
    assert other.state_hash() == env.state_hash()


class Owing(Beans):
    """Say how many beans there are."""

    wanted = "-5"

    def case_of(self, task: JsonObject) -> Case:
        return make_case(Jar(), lambda: self.wanted)


def says(wanted: str, answer: str) -> float:
    env = Owing()
    env.wanted = wanted
    env.reset(seed=0)
    return float(env.step(json.dumps(env.say(answer)))[1])


def test_an_answer_is_compared_without_case_space_and_signs_around_words_but_not_without_those_in_them() -> None:
    assert says("owner ada", "  Owner: Ada! ") == says("C17", "c17.") == says("-5", "-5") == 1.0
    for wanted, answer in (("-5", "5"), ("1.5", "1 5"), ("1.5", "1/5"), ("a@b.example", "a b example")):
        assert says(wanted, answer) == 0.0


def test_an_answer_that_saying_nothing_would_give_is_refused() -> None:
    with pytest.raises(EnvError, match="each needs a letter or a digit"):
        says("+", "")


def test_what_is_missing_is_said() -> None:
    assert issubclass(AppEnv, ToolEnv)
    with pytest.raises(EnvError, match="call reset"):
        Beans().score()
    with pytest.raises(EnvError, match="define it with make_case"):
        Caseless(tasks=[{"instruction": "x"}]).reset(seed=0)
    with pytest.raises(EnvError, match="has no app_type"):
        AppEnv(tasks=[{"instruction": "x"}])
