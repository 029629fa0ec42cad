from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import gymnasium
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

import agentgrpo as ag
from agentgrpo.core import weigh
from agentgrpo.errors import EnvError, TaskError, ToolFailure
from agentgrpo.tooling import as_tool
from agentgrpo.types import JsonObject, Message

ROWS: list[JsonObject] = [
    {"lockers": {"ann": "7", "bob": "8"}, "name": "ann"},
    {"lockers": {"cid": "9"}, "name": "cid", "task_id": "cid"},
]


# The README's environment, word for word: authors need not annotate.
class Locker(ag.ToolEnv):
    """Find the locker that belongs to a name and open it."""

    def reset_task(self, task):  # type: ignore[no-untyped-def]
        self.lockers, self.opened = task["lockers"], None
        return f"Open the locker of {task['name']}."

    @ag.tool
    def find(self, name: str) -> str:
        """Return the number of the locker that belongs to a name."""
        if name not in self.lockers:
            raise ag.ToolError(f"nobody is called {name}")
        return self.lockers[name]  # type: ignore[no-any-return]

    @ag.tool
    async def unlock(self, number: str) -> str:
        """Open a locker by its number."""
        self.opened = number
        return "open"

    def reward(self):  # type: ignore[no-untyped-def]
        return {"outcome": float(self.opened == self.lockers[self.task["name"]])}


class Chatty(ag.ToolEnv):
    """Everything optional: a user who replies, an app's tools, shaped rewards, an early end, a state."""

    system_prompt = "Be brief."
    metadata = {"isolation": "inline"}  # noqa: RUF012

    def reset_task(self, task: JsonObject) -> list[Message]:
        self.count = int(task.get("start", 0))
        return [{"role": "user", "content": "Hello."}, {"role": "user", "content": "Count."}]

    def extra_tools(self) -> list[Callable[..., Any]]:
        return [self.app_add]

    def app_add(self, by: int = 1) -> int:
        """Add."""
        self.count += by
        return self.count

    def respond(self, content: str) -> str | None:
        return None if content == "bye" else f"You said {content}."

    def is_done(self) -> bool:
        return self.count >= 10

    def reward(self) -> Mapping[str, float]:
        return {"outcome": self.count / 10, "speed": 0.5}

    def state(self) -> JsonObject:
        return {"count": self.count}

    def state_hash(self) -> str:
        return str(self.count)

    def state_diff(self) -> list[JsonObject]:
        before, self.told = getattr(self, "told", None), self.count
        return [] if before == self.count else [{"op": "replace", "path": "/count", "value": self.count}]


def act(env: ag.ToolEnv, action: JsonObject | str) -> tuple[str, float, bool, bool, JsonObject]:
    return env.step(action if isinstance(action, str) else json.dumps(action))


def test_an_episode_of_the_readmes_environment() -> None:
    env = Locker(tasks=ROWS)
    obs, info = env.reset(seed=0, options={"task_id": "train-0"})
    assert obs == "Open the locker of ann."
    assert info["messages"] == [{"role": "user", "content": obs}]
    assert [tool["function"]["name"] for tool in info["tools"]] == ["find", "unlock"]
    assert info["task_id"] == "train-0"
    obs, reward, terminated, truncated, info = act(env, env.call("find", name="ann"))
    assert (obs, reward, terminated, truncated) == ("7", 0.0, False, False)
    assert info["messages"] == [
        {"role": "tool", "tool_call_id": "call_0", "name": "find", "content": "7", "is_error": False}
    ]
    assert "reward_terms" not in info
    act(env, env.call("unlock", number="7"))
    obs, reward, terminated, _, info = act(env, env.say("done"))
    assert (obs, reward, terminated, env.answer) == ("", 1.0, True, "done")
    assert (info["messages"], info["reward_terms"]) == ([], {"outcome": 1.0})


async def test_it_works_in_a_notebook() -> None:
    env = Locker(tasks=ROWS)
    env.reset(seed=0)
    assert act(env, env.call("unlock", number="7"))[0] == "open"
    assert asyncio.get_running_loop().is_running()


def test_it_is_a_gymnasium_environment() -> None:
    spec = EnvSpec("Locker-v0", entry_point=f"{__name__}:Locker", kwargs={"tasks": ROWS}, max_episode_steps=2)
    env = gymnasium.make(spec)
    check_env(env.unwrapped)
    env.reset(seed=0)
    assert [env.step("<tool_call>")[3] for _ in range(2)] == [False, True]
    shown = gymnasium.make(spec, render_mode="ansi")
    obs, _ = shown.reset(seed=0)
    assert shown.render() == obs
    vector = gymnasium.make_vec(spec, 2, vectorization_mode="sync")
    assert len(vector.reset(seed=0)[0]) == 2
    vector.close()


def test_calls_are_answered_in_order_with_every_kind_of_error() -> None:
    env = Locker(tasks=ROWS)
    env.reset(options={"task_id": "cid"})
    calls = [
        {"id": "a", "name": "find", "arguments": {"name": "cid"}},
        {"id": "b", "name": "open", "arguments": {}},
        {"id": "c", "name": "find", "arguments": {"nme": "cid"}},
        {"id": "d", "name": "unlock", "arguments": {"number": "9"}},
        {"id": "e", "raw": "{", "error": {"type": "unclosed", "message": "cut off"}},
        {"id": "f", "name": "find", "arguments": {"name": "dan"}},
    ]
    messages = act(env, {"content": "", "tool_calls": calls})[4]["messages"]
    assert [message["tool_call_id"] for message in messages] == list("abcdef")
    assert [message["is_error"] for message in messages] == [False, True, True, False, True, True]
    types = [json.loads(m["content"])["error"]["type"] for m in messages if m["is_error"]]
    assert types == ["unknown_tool", "invalid_arguments", "unclosed", "tool_error"]
    assert "there is no tool 'open'; the tools are find, unlock." in messages[1]["content"]


def test_a_person_can_drive_it() -> None:
    env = Locker(tasks=ROWS)
    env.reset(options={"task": ROWS[0]})
    text = 'Hm. <tool_call>{"name": "find", "arguments": {"name": "ann"}}</tool_call><tool_call>{"name":'
    obs, _, terminated, _, info = env.step(text)
    assert not terminated
    assert [m["tool_call_id"] for m in info["messages"]] == ["call_0", "call_1"]
    assert obs.splitlines()[0] == "7"
    assert '"unclosed"' in obs


@settings(max_examples=150, deadline=None)
@given(st.text() | st.text().map(lambda text: json.dumps({"content": text, "tool_calls": [text]})))
def test_no_action_raises(action: str) -> None:
    env = Locker(tasks=ROWS)
    env.reset(seed=0)
    obs, reward, *_ = env.step(action)
    obs.encode()
    assert reward == 0.0


def test_bugs_of_a_tool_end_the_episode_as_failed() -> None:
    class Broken(Locker):
        @ag.tool
        def crash(self) -> str:
            raise ZeroDivisionError("oops")

    env = Broken(tasks=ROWS)
    env.reset()
    with pytest.raises(ToolFailure, match="crash"):
        act(env, env.call("crash"))


def test_all_the_optional_parts() -> None:
    env = Chatty(reward_weights={"speed": 0.1}, render_mode="ansi")
    obs, info = env.reset()
    assert obs == "Hello.\nCount."
    assert [message["role"] for message in info["messages"]] == ["system", "user", "user"]
    assert info["state_hash"] == "0"
    assert Chatty.metadata | {"isolation": "thread"} == ag.ToolEnv.metadata
    info = act(env, env.call("app_add", by=3))[4]
    assert (info["state_hash"], info["state_diff"]) == ("3", [{"op": "replace", "path": "/count", "value": 3}])
    obs, _, terminated, _, info = act(env, env.say("hi"))
    assert (obs, terminated, info["state_diff"]) == ("You said hi.", False, [])
    assert info["messages"] == [{"role": "user", "content": "You said hi."}]
    assert json.loads(env.render() or "") == {"count": 3}
    assert env.score() == {"outcome": 0.3, "speed": 0.5}
    _, reward, terminated, _, info = act(env, env.call("app_add", by="7"))
    assert (terminated, info["reward_terms"]) == (True, {"outcome": 1.0, "speed": 0.5})
    assert reward == pytest.approx(1.05)
    env.reset()
    assert act(env, env.say("bye"))[2]


def test_infos_share_nothing() -> None:
    env = Locker(tasks=ROWS)
    _, info = env.reset(options={"task_id": "cid"})
    info["tools"][0]["function"]["parameters"].clear()
    env.task["lockers"].clear()
    assert act(env, "<tool_call>")[4]["tools"][0]["function"]["parameters"]
    env.reset(options={"task_id": "cid"})
    assert env.task["lockers"] == {"cid": "9"}


def test_a_seed_chooses_the_task() -> None:
    env = Locker(tasks=ROWS)
    seen = {env.reset(seed=seed)[1]["task_id"] for seed in range(20)}
    assert seen == {"train-0", "cid"}
    assert [env.reset(seed=seed)[0] for seed in range(5)] == [env.reset(seed=seed)[0] for seed in range(5)]


def test_shipped_splits_are_found_by_id() -> None:
    class Shipped(Locker):
        splits: ClassVar[tuple[str, ...]] = ("train", "other")

        @classmethod
        def tasks(cls, split: str = "train") -> list[JsonObject]:
            return [ROWS[0]] if split == "train" else [ROWS[1]]

    env = Shipped()
    assert env.reset(options={"task_id": "cid"})[0] == "Open the locker of cid."
    assert env.reset(options={"task_id": "train-0"})[0] == "Open the locker of ann."
    with pytest.raises(TaskError, match=r"no task 'cd'. Did you mean 'cid'"):
        env.reset(options={"task_id": "cd"})


def test_tools_can_be_chosen() -> None:
    env = Locker(tasks=ROWS, tools=["unlock"])
    assert [tool["function"]["name"] for tool in env.reset()[1]["tools"]] == ["unlock"]
    assert "unknown_tool" in act(env, env.call("find", name="ann"))[0]
    with pytest.raises(EnvError, match=r"no tool 'fnd'; it has find, unlock. Did you mean 'find'"):
        Locker(tools=["fnd"])
    with pytest.raises(EnvError, match="no tool 'x'"):
        Chatty(tools=["x"]).reset()
    assert list(Chatty(tools=["app_add"]).tools) == []


def test_tools_may_change_in_mid_episode() -> None:
    class Growing(Locker):
        @ag.tool
        def learn(self) -> None:
            self.tools["extra"] = as_tool(self.extra)

        def extra(self) -> str:
            return "extra"

    env = Growing(tasks=ROWS)
    env.reset()
    assert [t["function"]["name"] for t in act(env, env.call("learn"))[4]["tools"]][-1] == "extra"
    assert act(env, env.call("extra"))[0] == "extra"
    assert "extra" not in str(env.reset()[1]["tools"])


class Swapping(ag.ToolEnv):
    """Its own tool, `grow`, swaps the tools it has from elsewhere."""

    def reset_task(self, task: JsonObject) -> str:
        self.is_grown = False
        return "Grow."

    @ag.tool
    def grow(self) -> str:
        self.is_grown = True
        return "grown"

    def extra_tools(self) -> list[Callable[..., Any]]:
        def old() -> str:
            return "old"

        def new() -> str:
            return "new"

        return [new if self.is_grown else old]

    def reward(self) -> float:
        return 1.0


@pytest.mark.parametrize("wanted", [None, ["grow", "old"]])
def test_tools_from_elsewhere_are_asked_for_after_every_step(wanted: list[str] | None) -> None:
    env = Swapping(tools=wanted)

    def offered(info: JsonObject) -> list[str]:
        return [tool["function"]["name"] for tool in info["tools"]]

    assert offered(env.reset()[1]) == ["grow", "old"]
    grown = ["grow", "new"] if wanted is None else ["grow"]  # one that was chosen may vanish
    assert offered(act(env, env.call("grow"))[4]) == grown
    assert (act(env, env.call("new"))[0] == "new") == (wanted is None)
    assert offered(env.reset()[1]) == ["grow", "old"]


def test_authors_mistakes_are_told() -> None:
    with pytest.raises(
        TaskError, match=r"cannot use task 'train-0': KeyError: 'lockers' \(test_core.py:\d+\).*no data"
    ):
        Locker().reset()
    with pytest.raises(TaskError, match="Its row has task_id, nme"):
        Locker().reset(options={"task": {"nme": "ann"}})
    with pytest.raises(EnvError, match="no reset_task"):
        ag.ToolEnv().reset()
    with pytest.raises(EnvError, match="no reward"):
        ag.ToolEnv().score()
    with pytest.raises(
        EnvError, match=r"reward_weights has 'sped', the reward has outcome, speed. Did you mean 'speed'"
    ):
        weigh({"outcome": 1.0, "speed": 0.5}, {"sped": 1.0})

    class Twice(Locker):
        @ag.tool(name="find")
        def other(self) -> str:
            return ""

    with pytest.raises(EnvError, match="two tools are called 'find'"):
        Twice()

    class Nan(Locker):
        def reward(self):  # type: ignore[no-untyped-def]
            return {"outcome": float("nan")}

    env = Nan(tasks=ROWS)
    env.reset()
    with pytest.raises(EnvError, match=r"Nan.reward\(\) gave outcome = nan"):
        env.step("done")


# Calls on record


class Recorded(Locker):
    def reward(self) -> dict[str, float]:
        return {"outcome": float(len(self.calls))}

    def snapshot(self) -> bytes:
        return json.dumps([self.dump_episode(), self.lockers, self.opened]).encode()

    def restore(self, data: bytes) -> None:
        episode, self.lockers, self.opened = json.loads(data)
        self.load_episode(episode)


def recorded() -> Recorded:
    env = Recorded(tasks=ROWS)
    env.reset(options={"task": ROWS[0]})
    env.step(json.dumps(env.call("find", name="ann")))
    env.step(json.dumps(env.call("find", name="nobody")))
    env.step(json.dumps(env.call("find", nme="ann")))
    env.step(json.dumps(env.call("open_sesame")))
    env.step('<tool_call>{"name": "find", "arguments": </tool_call>')
    return env


def test_an_environment_sees_its_calls_and_what_came_of_them() -> None:
    env = recorded()
    assert [(call.name, call.error) for call in env.calls] == [
        ("find", None),
        ("find", "tool_error"),
        ("find", "invalid_arguments"),
        ("open_sesame", "unknown_tool"),
        ("", "invalid_json"),
    ]
    first, *_, last = env.calls
    assert (first.arguments, first.result) == ({"name": "ann"}, "7")
    assert last.arguments is None
    assert "nobody is called nobody" in env.calls[1].result
    env.reset(options={"task": ROWS[0]})
    assert env.calls == ()


def test_calls_go_with_a_snapshot_into_another_environment() -> None:
    env = recorded()
    other = Recorded(tasks=ROWS)
    other.reset(options={"task": ROWS[1]})
    other.step(json.dumps(other.call("find", name="cid")))
    other.restore(env.snapshot())
    assert (other.calls, other.task, other.answer) == (env.calls, env.task, env.answer)
    assert other.score() == env.score() == {"outcome": 5.0}


def test_calls_cannot_be_replaced() -> None:
    with pytest.raises(AttributeError):
        recorded().calls = ()  # type: ignore[misc]
