from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from aiohttp import WSMsgType, web

from agentgrpo.core import ToolEnv
from agentgrpo.env_server import EnvServer
from agentgrpo.envcheck import check_env
from agentgrpo.envs.openenv.env import OpenEnv
from agentgrpo.envs.openenv.wire import action_fields, result_of, text_of
from agentgrpo.envs.shop.env import Shop
from agentgrpo.errors import EnvError, EnvFailure, TaskError, ToolError, ToolFailure
from agentgrpo.registry import resolve_env
from agentgrpo.rollout.isolation import EnvHosts
from agentgrpo.tooling import tool
from agentgrpo.types import JsonObject

MCP_SCHEMA: JsonObject = {"properties": {"tool_name": {}, "arguments": {}}, "required": ["tool_name"]}
LISTED: JsonObject = {"tools": [{"name": "look", "description": "Look.", "input_schema": {"type": "object"}}]}


@contextmanager
def served(app: web.Application) -> Iterator[str]:
    """Serve on a thread of its own, as a server elsewhere would; yield the URL."""
    started, address, ended = threading.Event(), list[int](), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        address.append(runner.addresses[0][1])
        started.set()
        await ended.wait()
        await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert started.wait(10)
        yield f"http://127.0.0.1:{address[0]}"
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(10)
        loop.close()


def scripted(answers: Sequence[JsonObject | str | None], schema: Any = MCP_SCHEMA) -> web.Application:
    """A server that gives these answers in turn; None hangs, "close" hangs up, other text is sent as it is."""

    async def talk(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        for answer in answers:
            received = await socket.receive()
            if received.type is not WSMsgType.TEXT or '"close"' in received.data or answer == "close":
                break
            if answer is not None:
                await socket.send_str(answer if isinstance(answer, str) else json.dumps(answer))
            else:
                await socket.receive()  # until the client gives up
        await socket.close()
        return socket

    async def describe(request: web.Request) -> web.Response:
        return web.json_response({"action": schema})

    app = web.Application()
    app.router.add_get("/ws", talk)
    app.router.add_get("/schema", describe)
    return app


def seen(observation: JsonObject, reward: float | None = None, done: bool = False) -> JsonObject:
    return {"type": "observation", "data": {"observation": observation, "reward": reward, "done": done}}


def error(code: str, message: str = "no", **more: Any) -> JsonObject:
    return {"type": "error", "data": {"code": code, "message": message, **more}}


class Growing(ToolEnv):
    """A cellar whose door has to be found first: a tool that appears."""

    def reset_task(self, task: JsonObject) -> str:
        self.is_found = self.is_done_ = False
        return "Leave the cellar."

    @tool
    def search(self) -> str:
        """Search the cellar."""
        self._offer([self.leave])
        return "there is a door"

    def leave(self) -> str:
        """Leave by the door."""
        self.is_done_ = True
        return "out"

    def is_done(self) -> bool:
        return self.is_done_

    def reward(self) -> float:
        return float(self.is_done_)

    def respond(self, content: str) -> str | None:
        return "nobody hears you" if content else None


def test_our_environment_behind_our_server_is_the_same_one() -> None:
    with served(EnvServer(resolve_env("shop")).app()) as url:
        here, there = Shop(), OpenEnv(url=url)
        for row in Shop.tasks("heldout")[::40]:
            first = here.reset(options={"task": row})
            second = there.reset(options={"task": {"task_id": row["task_id"], "task": row}})
            assert first[0] == second[0]
            assert (first[1]["messages"], first[1]["tools"]) == (second[1]["messages"], second[1]["tools"])
            oracle = here.oracle()
            action, terminated = next(oracle), False
            while not terminated:
                ours, theirs = here.step(json.dumps(action)), there.step(json.dumps(action))
                assert ours[:4] == theirs[:4]
                terminated = ours[2]
                action = action if terminated else oracle.send(tuple(ours[4]["messages"]))
            assert ours[4]["reward_terms"] == theirs[4]["reward_terms"] == {"outcome": 1.0, "side_effects": 0.0}
        here.close()
        there.close()


def test_it_is_sound() -> None:
    with served(EnvServer(resolve_env("lockbox")).app()) as url:
        results = check_env(resolve_env("openenv", url=url), tasks=2)
    assert [result for result in results if result.passed is False] == []


def test_tools_that_appear_and_users_that_reply_come_through() -> None:
    with served(EnvServer(resolve_env(Growing)).app()) as url:
        env = OpenEnv(url=url)
        assert [t["function"]["name"] for t in env.reset()[1]["tools"]] == ["search"]
        obs, _, terminated, _, info = env.step("is anybody there?")
        assert (obs, terminated, info["messages"][0]["role"]) == ("nobody hears you", False, "user")
        info = env.step(json.dumps(env.call("search")))[4]
        assert [t["function"]["name"] for t in info["tools"]] == ["search", "leave"]
        obs, reward, terminated, _, _ = env.step(json.dumps(env.call("leave")))
        assert (obs, reward, terminated) == ("out", 1.0, True)
        env.close()


async def test_rollouts_play_it_on_threads_each_with_a_session() -> None:
    with served(EnvServer(resolve_env("lockbox")).app()) as url:
        hosts = EnvHosts(resolve_env("openenv", url=url), concurrency=4, seconds=20)
        episodes = [hosts.make() for _ in range(4)]
        starts = await asyncio.gather(*(h.reset(options={"task": {"seed": n}}) for n, h in enumerate(episodes)))
        assert len({obs for obs, _ in starts}) > 1
        call = json.dumps({"content": "", "tool_calls": [{"id": "a", "name": "press", "arguments": {"digit": 1}}]})
        for _ in range(4):
            steps = await asyncio.gather(*(host.step(call) for host in episodes))
        assert {step[0] for step in steps} == {"done"}
        await asyncio.gather(*(host.close() for host in episodes))
        hosts.close()


def test_a_full_server_is_waited_for() -> None:
    with served(EnvServer(resolve_env("lockbox"), capacity=1).app()) as url:
        first, second = OpenEnv(url=url), OpenEnv(url=url, seconds=10)
        first.reset(options={"task": {"seed": 1}})
        threading.Timer(0.5, first.close).start()
        assert second.reset(options={"task": {"seed": 1}})[0].startswith("digit: ")
        second.close()


def test_a_server_that_stays_full_says_what_to_do() -> None:
    with served(EnvServer(resolve_env("lockbox"), capacity=1).app()) as url:
        first, second = OpenEnv(url=url), OpenEnv(url=url, seconds=0.5)
        first.reset()
        with pytest.raises(EnvFailure, match=r"is full: all 1 sessions are in use\. Lower rollout\.concurrency"):
            second.reset()
        first.close()
        second.close()


def test_typed_actions_are_the_fields_of_one_tool_and_rewards_add_up() -> None:
    schema = {
        "description": "Guess.",
        "properties": {"number": {"type": "integer"}, "metadata": {"type": "object"}},
        "required": ["number"],
    }
    refused = error("VALIDATION_ERROR", errors=[{"loc": ["number"], "msg": "not a number"}])
    answers = [seen({"hint": "0 to 9"}), refused, seen({"hint": "lower"}, -0.25), seen({"hint": "right"}, 1.0, True)]
    with served(scripted(answers, schema)) as url:
        env = OpenEnv(url=url, instructions="Guess a number.")
        obs, info = env.reset()
        assert (obs, [message["role"] for message in info["messages"]]) == ("0 to 9", ["system", "user"])
        (offered,) = info["tools"]
        assert offered["function"]["parameters"] == {
            "type": "object",
            "properties": {"number": {"type": "integer"}},
            "required": ["number"],
        }
        said = env.step(json.dumps(env.call("act", number="x")))[0]
        assert json.loads(said)["error"] == {"type": "tool_error", "message": "number: not a number"}
        assert env.step(json.dumps(env.call("act", number=7)))[:4] == ("lower", 0.0, False, False)
        obs, reward, terminated, truncated, info = env.step(json.dumps(env.call("act", number=3)))
        assert (obs, reward, terminated, truncated) == ("right", 0.75, True, False)
        assert info["reward_terms"] == {"outcome": 0.75}
        assert "it is over" in env.step(json.dumps(env.call("act", number=3)))[0]
        env.close()


def test_without_a_way_to_say_something_a_message_ends_the_episode() -> None:
    with served(scripted([seen({}), seen(LISTED)])) as url:
        env = OpenEnv(url=url)
        assert env.reset()[0] == "Begin."
        assert env.step("I am done")[1:4] == (0.0, True, False)
        env.close()


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ([None], "did not answer within 0.3 s"),
        (["close"], "closed the session"),
        (["{"], "sent no JSON"),
        (["[]"], "expected an object with 'type' and 'data'"),
        ([error("EXECUTION_ERROR", "out of memory")], r"failed \(EXECUTION_ERROR\): out of memory"),
        ([error("FACTORY_ERROR")], "FACTORY_ERROR"),
        ([error("VALIDATION_ERROR", "no such seed")], "does not take the task .*: no such seed"),
        ([seen({}), seen({"tools": [{"name": "x"}]})], "lists tools that are none"),
        ([seen({}), seen({"tools": 5})], "lists tools that are none"),
        ([seen({}), None], "did not answer within"),
    ],
)
def test_a_server_that_breaks_at_the_start_fails_the_episode(answers: list[Any], reason: str) -> None:
    with served(scripted(answers)) as url:
        env = OpenEnv(url=url, seconds=0.3)
        with pytest.raises(EnvFailure, match=reason):
            env.reset(options={"task": {"seed": 1}})
        env.close()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [(None, "did not answer"), ("close", "closed the session"), (error("EXECUTION_ERROR", "boom"), "boom")],
)
def test_a_server_that_breaks_in_a_step_fails_the_episode(answer: Any, reason: str) -> None:
    with served(scripted([seen({}), seen(LISTED), answer])) as url:
        env = OpenEnv(url=url, seconds=0.3)
        env.reset()
        with pytest.raises(EnvFailure, match=reason):
            env.step(json.dumps(env.call("look")))
        env.close()


def test_a_server_that_is_not_there_is_named() -> None:
    with served(scripted([])) as url:
        pass
    env = OpenEnv(url=url, seconds=2)
    with pytest.raises(EnvFailure, match=f"{url} did not give its schema: "):
        env.reset()
    with served(scripted([], schema=5)) as url, pytest.raises(EnvFailure, match="/schema says"):
        OpenEnv(url=url).reset()


def test_configs_that_cannot_work_are_refused() -> None:
    with pytest.raises(EnvError, match="expected http://host:port"):
        OpenEnv(url="localhost:8000")
    with pytest.raises(TaskError, match="no split 'test'"):
        OpenEnv.tasks("test")
    assert [len(OpenEnv.tasks(split)) for split in ("train", "heldout")] == [1000, 200]


def test_what_servers_say_becomes_text() -> None:
    for given, said in [
        (None, ""),
        ({}, ""),
        ("hello", "hello"),
        ({"hint": "up"}, "up"),
        ({"hint": "up", "more": None}, "up"),
        ({"a": 1, "b": "é"}, '{"a": 1, "b": "é"}'),
        ({"text": "x", "other": "y"}, '{"text": "x", "other": "y"}'),
        ({"text": "x", "messages": []}, "x"),
        ([1, 2], "[1, 2]"),
    ]:
        assert text_of(given) == said
    content = {"content": [{"type": "text", "text": "a"}, {"type": "image"}, {"text": "b"}], "is_error": False}
    assert result_of("look", {"result": content}) == "a\nb"
    assert result_of("look", {"result": {"content": [], "data": 5}}) == "5"
    assert result_of("look", {"result": 7}) == "7"
    with pytest.raises(ToolError, match=r"^a\nb$"):
        result_of("look", {"result": content | {"is_error": True}})
    with pytest.raises(ToolError, match="too dark"):
        result_of("look", {"error": {"error_type": "execution_error", "message": "too dark"}})
    with pytest.raises(ToolFailure, match="unplugged"):
        result_of("look", {"error": {"error_type": "transport_error", "message": "unplugged"}})


def test_an_action_without_fields_is_a_tool_without_arguments() -> None:
    assert action_fields({"properties": {"metadata": {}}}) == {"type": "object", "properties": {}}
