from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mcp")

import agentgrpo as ag
from agentgrpo.blocking import first_error
from agentgrpo.chat import Chat
from agentgrpo.config.run import RolloutConfig
from agentgrpo.envs.mcp_env import McpEnv
from agentgrpo.errors import EnvError, RunError, TaskError
from agentgrpo.registry import EnvSource, Isolation, resolve_env
from agentgrpo.rollout.manager import RolloutManager
from agentgrpo.tooling import Tool
from agentgrpo.tools.mcp.toolbox import McpTools
from agentgrpo.types import Boundary, JsonObject, Policy, Sampling, StopReason, Task
from tests.clock import leap
from tests.faults.outside import nothing_left_behind
from tests.rollout.stages import acting, calls, play, says
from tests.tools.mcp.servers import HERE, noted, survivors, wait_for

TASK: JsonObject = {"task_id": "t", "prompt": "Keep milk.", "text": "milk"}


def options(*flags: str, **of_server: Any) -> JsonObject:
    command = [sys.executable, "-S", str(HERE / "bad_server.py"), *flags]
    server = {"command": command, "name": "bad", "env": ["PIDS"], **of_server}
    return {"servers": [server], "reward": "tests.envs.mcp_rewards:kept", "tasks": [TASK]}


@pytest.fixture(autouse=True)
def pids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which servers note their processes."""
    folder = tmp_path / "pids"
    folder.mkdir()
    monkeypatch.setenv("PIDS", str(folder))
    return folder


def source(*flags: str, kind: Isolation = "thread", **of_server: Any) -> EnvSource:
    made = resolve_env("mcp", **options(*flags, **of_server))
    assert made.isolation == "thread"
    return replace(made, isolation=kind)


def test_an_episode_by_hand(pids: Path) -> None:
    env = McpEnv(**options(), system_prompt="Keep things.")
    obs, info = env.reset(seed=0)
    assert obs == "Keep milk."
    assert [message["role"] for message in info["messages"]] == ["system", "user"]
    assert "echo" in [tool["function"]["name"] for tool in info["tools"]]
    assert env.step(json.dumps(env.call("add", text="milk")))[0] == "done"
    assert '"tool_error"' in env.step(json.dumps(env.call("refuse")))[0]
    _, reward, terminated, _, info = env.step(json.dumps(env.say("kept")))
    assert (reward, terminated, info["reward_terms"]) == (1.5, True, {"outcome": 1.0, "answered": 0.5})
    env.reset()
    assert env.score() == {"outcome": 0.0, "answered": 0.0}  # a new session: nothing was kept
    env.close()
    env.close()
    assert survivors(pids) == []


def test_a_changed_list_is_in_the_next_info() -> None:
    env = McpEnv(**options("declare"), tools=["grow", "echo"])
    try:
        env.reset()
        info = env.step(json.dumps(env.call("grow")))[4]
        assert [tool["function"]["name"] for tool in info["tools"]] == ["grow"]
        assert '"unknown_tool"' in env.step(json.dumps(env.call("echo", text="x")))[0]
    finally:
        env.close()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"reward": "kept"}, "reward = 'kept' names no function"),
        ({"reward": "tests.envs.mcp_rewards:NUMBER"}, "has no function 'NUMBER'; it has kept"),
        ({"reward": "tests.envs.nowhere:kept"}, "cannot import the module 'tests.envs.nowhere'"),
        ({"servers": [{"url": "here"}]}, "url is 'here'"),
    ],
)
def test_a_users_mistakes_are_told_before_anything_starts(changed: JsonObject, message: str, pids: Path) -> None:
    with pytest.raises(EnvError, match=message):
        resolve_env("mcp", **{**options(), **changed})
    assert list(pids.iterdir()) == []


def test_a_task_needs_a_prompt() -> None:
    env = McpEnv(**options())
    with pytest.raises(TaskError, match="its prompt is 5"):
        env.reset(options={"task": {"prompt": 5}})
    with pytest.raises(TaskError, match="cannot use task"):
        env.reset(options={"task": {"text": "x"}})


def test_resolving_starts_no_server(pids: Path) -> None:
    source()
    assert list(pids.iterdir()) == []


@pytest.mark.parametrize("kind", ["thread", pytest.param("process", marks=pytest.mark.slow)])
async def test_concurrent_episodes_keep_to_themselves(tiny_chat: Chat, pids: Path, kind: Isolation) -> None:
    async def episode(text: str) -> float | None:
        engine = acting(tiny_chat, calls("add", text=text), calls("kept"), says())
        ended = await play(tiny_chat, engine, source=source(kind=kind), row={"prompt": "Keep.", "text": text})
        assert ended.turns[1].messages[0]["content"] == json.dumps([text])
        return ended.reward

    async with nothing_left_behind():
        assert await asyncio.gather(*(episode(f"note {number}") for number in range(4))) == [1.5] * 4
    assert noted(pids) == 4
    assert await asyncio.to_thread(survivors, pids) == []


@pytest.mark.parametrize(
    ("tool", "cause", "kind"),
    [
        ("die", "I was told to", "thread"),
        ("hang", "hangs: no answer", "thread"),
        ("crash", "oops", "thread"),
        pytest.param("hang", "hangs: no answer", "process", marks=pytest.mark.slow),
    ],
)
async def test_a_broken_server_fails_its_episode_unscored(
    tiny_chat: Chat, pids: Path, tool: str, cause: str, kind: Isolation
) -> None:
    engine = acting(tiny_chat, calls("fork"), calls(tool))
    made = source("deaf", kind=kind, call_seconds=3 if tool == "hang" else 60)
    ended = await play(tiny_chat, engine, source=made, row=TASK)
    assert (ended.stop_reason, ended.reward) == (StopReason.FAILED, None)
    assert ended.failure is not None
    assert ended.failure.boundary is Boundary.TOOL
    assert cause in ended.failure.cause
    assert await asyncio.to_thread(survivors, pids) == []


async def test_a_server_that_cannot_be_reached_fails_the_reset(tiny_chat: Chat) -> None:
    made = source("mute", connect_seconds=0.3)
    ended = await play(tiny_chat, acting(tiny_chat), source=made, row=TASK)
    assert ended.failure is not None
    assert (ended.failure.boundary, ended.turns) == (Boundary.TOOL, ())


async def test_at_the_deadline_of_the_episode_nothing_of_it_stays(tiny_chat: Chat, pids: Path) -> None:
    engine = acting(tiny_chat, calls("fork"), calls("hang"))
    made = source("deaf", call_seconds=3)  # after which its thread, which nothing stops, ends what is left
    playing = asyncio.create_task(play(tiny_chat, engine, source=made, row=TASK, episode_seconds=20))
    await asyncio.to_thread(wait_for, pids, 4)
    leap(20)
    ended = await playing
    assert (ended.stop_reason, ended.reward) == (StopReason.DEADLINE, None)
    assert await asyncio.to_thread(survivors, pids) == []


async def test_a_cancelled_episode_leaves_nothing(tiny_chat: Chat, pids: Path) -> None:
    engine = acting(tiny_chat, calls("fork"), calls("hang"))
    playing = asyncio.create_task(play(tiny_chat, engine, source=source("deaf", call_seconds=3), row=TASK))
    await asyncio.to_thread(wait_for, pids, 4)
    playing.cancel()
    await asyncio.gather(playing, return_exceptions=True)
    assert await asyncio.to_thread(survivors, pids) == []


async def test_a_tool_that_changes_what_it_says_of_itself_stops_the_rollout(tiny_chat: Chat, pids: Path) -> None:
    engine = acting(tiny_chat, calls("turn"))
    config = RolloutConfig(retries=2)
    manager = RolloutManager(source("declare"), tiny_chat, engine, config, seed=0)
    with pytest.raises(ExceptionGroup) as stopped:
        async with manager:
            await manager.rollout(
                [Task(id="t", row=TASK)],
                policy=Policy(),
                phase="train",
                step=0,
                group_size=2,
                sampling=Sampling(max_tokens=0, seed=0),
            )
    cause = first_error(stopped.value)
    assert isinstance(cause, RunError)
    assert "the tool 'echo' of the MCP server 'bad' changed since the run began" in str(cause)
    assert await asyncio.to_thread(survivors, pids) == []


OWNER = """
import json, sys, time
from agentgrpo.envs.mcp_env import McpEnv
env = McpEnv(**json.loads(sys.argv[1]))
env.reset()
env.step(json.dumps(env.call("fork")))
print("ready", flush=True)
if "leave" in sys.argv:
    sys.exit()  # without a close
time.sleep(60)
"""


@pytest.mark.parametrize("end", ["kill", "leave"])
async def test_nothing_outlives_the_program(pids: Path, end: str) -> None:
    owner = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", OWNER, json.dumps(options("deaf")), end),
        stdout=asyncio.subprocess.PIPE,
        cwd=HERE.parents[2],
    )
    assert owner.stdout is not None
    assert await owner.stdout.readline() == b"ready\n"
    assert noted(pids) == 4
    if end == "kill":
        owner.kill()
    await owner.wait()
    assert await asyncio.to_thread(survivors, pids) == []


class Notes(ag.ToolEnv):
    """An environment of an author's own over a server: as the page shows it."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.mcp = McpTools({"command": [sys.executable, "-S", str(HERE / "bad_server.py")]})

    def reset_task(self, task: JsonObject) -> str:
        self.mcp.restart()
        return "Keep milk."

    def extra_tools(self) -> list[Tool]:
        return self.mcp.tools()

    def reward(self) -> float:
        return float("milk" in self.mcp.call("kept"))

    def close(self) -> None:
        self.mcp.close()


def test_an_authors_own_environment() -> None:
    env = Notes()
    env.reset()
    env.step(json.dumps(env.call("add", text="milk")))
    assert env.step(json.dumps(env.say("done")))[1] == 1.0
    env.close()
