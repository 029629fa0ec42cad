from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import gymnasium
import pytest
from aiohttp import web

from agentgrpo.core import ToolEnv, UnicodeText
from agentgrpo.env_server import EnvServer
from agentgrpo.errors import ToolFailure
from agentgrpo.registry import EnvSource, resolve_env
from agentgrpo.tooling import tool
from agentgrpo.types import JsonObject

ROOT = Path(__file__).parents[1]


class Door(ToolEnv):
    """A door that opens with its code; a bell that breaks."""

    def reset_task(self, task: JsonObject) -> str:
        self.code, self.is_open = int(task.get("code", 7)), False
        return "Open the door."

    @tool
    def enter(self, code: int) -> str:
        """Enter a code."""
        self.is_open = code == self.code
        return "open" if self.is_open else "closed"

    @tool
    def ring(self) -> str:
        """Ring the bell."""
        raise ToolFailure("the bell is broken")

    def is_done(self) -> bool:
        return self.is_open

    def reward(self) -> float:
        return float(self.is_open)

    @classmethod
    def tasks(cls, split: str = "train") -> list[JsonObject]:
        return [{"task_id": "nine", "code": 9}] if split == "train" else []


class Echo(gymnasium.Env[str, str]):
    """An environment of bare text, which a limit cuts off."""

    observation_space, action_space = UnicodeText(), UnicodeText()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        return "say something", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        return action.upper(), 0.5, False, action == "long", {}


class Client:
    """Speaks the protocol."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket

    async def ask(self, kind: str, data: JsonObject | None = None) -> JsonObject:
        await self.socket.send_json({"type": kind} if data is None else {"type": kind, "data": data})
        return await self.receive()

    async def receive(self) -> JsonObject:
        async with asyncio.timeout(60):
            answer: JsonObject = json.loads(await self.socket.receive_str())
        return answer

    async def call(self, name: str, **arguments: Any) -> JsonObject:
        return await self.ask("step", {"type": "call_tool", "tool_name": name, "arguments": arguments})


@asynccontextmanager
async def serving(source: EnvSource, **options: Any) -> AsyncIterator[str]:
    runner = web.AppRunner(EnvServer(source, **options).app())
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def client_of(url: str, **options: Any) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession() as http, http.ws_connect(f"{url}/ws", **options) as socket:
        yield Client(socket)


async def test_an_episode_by_tool_calls() -> None:
    async with serving(resolve_env(Door)) as url, client_of(url) as client:
        start = await client.ask("reset", {"seed": 1, "episode_id": "mine"})
        assert start["type"] == "observation"
        assert start["data"] | {"observation": {}} == {"observation": {}, "reward": None, "done": False}
        seen = start["data"]["observation"]
        assert (seen["text"], seen["messages"]) == ("Open the door.", [{"role": "user", "content": "Open the door."}])
        listed = await client.ask("step", {"type": "list_tools"})
        assert [row["name"] for row in listed["data"]["observation"]["tools"]] == ["enter", "ring"]
        assert set(seen["tools"][0]) == {"name", "description", "input_schema"}
        wrong = (await client.call("enter", code=1))["data"]
        assert wrong == {
            "observation": {"tool_name": "enter", "result": "closed", "tools_changed": False},
            "reward": 0.0,
            "done": False,
        }
        bad = (await client.call("enter", code="x"))["data"]["observation"]["error"]
        assert bad["error_type"] == "invalid_args"
        assert (await client.call("leave"))["data"]["observation"]["error"]["error_type"] == "tool_not_found"
        assert (await client.ask("state"))["data"] == {"episode_id": "mine", "step_count": 3}
        right = (await client.call("enter", code=9))["data"]  # the one training task's
        assert (right["reward"], right["done"], right["observation"]["reward_terms"]) == (1.0, True, {"outcome": 1.0})
        after = await client.call("enter", code=9)
        assert (after["type"], after["data"]["code"]) == ("error", "EXECUTION_ERROR")
        assert "reset first" in after["data"]["message"]


async def test_an_episode_by_messages_and_a_chosen_task() -> None:
    async with serving(resolve_env(Door)) as url, client_of(url) as client:
        await client.ask("reset", {"task": {"code": 3}})
        call = {"id": "a", "name": "enter", "arguments": {"code": 3}}
        end = (await client.ask("step", {"content": "", "tool_calls": [call]}))["data"]
        assert (end["done"], end["observation"]["messages"][0]["content"]) == (True, "open")
        await client.ask("reset", {"task": "nine"})
        end = (await client.ask("step", {"type": "message", "content": "no idea"}))["data"]
        assert (end["done"], end["reward"]) == (True, 0.0)
        gone = await client.ask("reset", {"task": "ten"})
        assert (gone["data"]["code"], "no task 'ten'" in gone["data"]["message"]) == ("EXECUTION_ERROR", True)


async def test_what_breaks_is_an_error_and_the_session_goes_on() -> None:
    async with serving(resolve_env(Door)) as url, client_of(url) as client:
        early = await client.call("enter", code=1)
        assert early["data"]["code"] == "EXECUTION_ERROR"
        await client.ask("reset")
        broken = await client.call("ring")
        assert broken["data"] == {"message": "the bell is broken", "code": "EXECUTION_ERROR"}
        assert (await client.ask("reset", {}))["type"] == "observation"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{", "INVALID_JSON"),
        ("[" * 100_000, "INVALID_JSON"),
        ("[]", "UNKNOWN_TYPE"),
        ('{"type": "fly"}', "UNKNOWN_TYPE"),
        ('{"type": "reset", "data": []}', "VALIDATION_ERROR"),
        ('{"type": "reset", "data": {"seed": -1}}', "VALIDATION_ERROR"),
        ('{"type": "reset", "data": {"seed": true}}', "VALIDATION_ERROR"),
        ('{"type": "reset", "data": {"task": 5}}', "VALIDATION_ERROR"),
        ('{"type": "step", "data": {"type": "call_tool", "tool_name": 5}}', "VALIDATION_ERROR"),
        ('{"type": "step", "data": {"type": "jump"}}', "VALIDATION_ERROR"),
        ('{"type": "step", "data": {"content": 5}}', "VALIDATION_ERROR"),
    ],
)
async def test_messages_that_are_none_are_told_so(text: str, code: str) -> None:
    async with serving(resolve_env(Door)) as url, client_of(url) as client:
        if '"step"' in text:
            await client.ask("reset")
        await client.socket.send_str(text)
        assert (await client.receive())["data"]["code"] == code
        assert (await client.ask("reset"))["type"] == "observation"


async def test_a_full_server_says_so_and_a_place_that_is_left_is_free() -> None:
    async with serving(resolve_env(Door), capacity=1) as url:
        async with client_of(url) as first:
            assert (await first.ask("reset"))["type"] == "observation"
            async with client_of(url) as second:
                refused = (await second.receive())["data"]
            assert refused == {"message": "all 1 sessions are in use", "code": "CAPACITY_REACHED", "max_sessions": 1}
            await first.socket.send_json({"type": "close"})
            assert (await first.socket.receive()).type is aiohttp.WSMsgType.CLOSE
        async with client_of(url) as third:
            assert (await third.ask("reset"))["type"] == "observation"


async def test_sessions_do_not_share_an_environment() -> None:
    async with serving(resolve_env(Door)) as url, client_of(url) as one, client_of(url) as other:
        await one.ask("reset", {"task": {"code": 1}})
        await other.ask("reset", {"task": {"code": 2}})
        assert (await one.call("enter", code=1))["data"]["done"]
        assert not (await other.call("enter", code=1))["data"]["done"]


async def test_text_environments_get_the_text_and_truncation_is_done_there() -> None:
    async with serving(resolve_env(Echo)) as url, client_of(url) as client:
        assert (await client.ask("reset"))["data"]["observation"]["text"] == "say something"
        said = (await client.ask("step", {"content": "hello"}))["data"]
        assert (said["observation"]["text"], said["reward"], said["done"]) == ("HELLO", 0.5, False)
        assert (await client.ask("step", {"content": "long"}))["data"]["done"]


async def test_pages_say_what_it_is() -> None:
    async with serving(resolve_env("shop")) as url, aiohttp.ClientSession() as http:
        pages = {}
        for name in ("health", "metadata", "schema"):
            async with http.get(f"{url}/{name}") as answer:
                pages[name] = await answer.json()
    assert pages["health"] == {"status": "healthy"}
    assert (pages["metadata"]["name"], set(pages["schema"])) == (
        "agentgrpo/Shop-v0",
        {"action", "observation", "state"},
    )
    assert {"tool_name", "arguments", "content"} <= pages["schema"]["action"]["properties"].keys()


async def test_a_page_of_another_origin_may_not_connect() -> None:
    async with serving(resolve_env(Door)) as url:
        with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
            async with client_of(url, origin="http://evil.example"):
                pass
        with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
            async with client_of(url, origin="http://[evil"):
                pass
        # A name that its owner lets lead here (DNS rebinding): then the page's origin is this server's address.
        rebound = url.replace("127.0.0.1", "evil.example")
        with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
            async with client_of(url, origin=rebound, headers={"Host": rebound.removeprefix("http://")}):
                pass
        for own in (url, url.replace("127.0.0.1", "localhost")):
            async with client_of(url, origin=own, headers={"Host": own.removeprefix("http://")}) as client:
                assert (await client.ask("reset"))["type"] == "observation"


def test_the_command_serves_on_loopback_until_it_is_ended(tmp_path: Path) -> None:
    config = tmp_path / "lake.toml"
    config.write_text('env = "gym"\n[env_args]\nid = "FrozenLake-v1"\nisolation = "inline"\n')
    command = [sys.executable, "-m", "agentgrpo.cli.main", "env", "serve", str(config), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
        finally:
            process.terminate()
    assert line.startswith("agentgrpo/Gym-v0 on http://127.0.0.1:")


def test_a_taken_port_is_one_message() -> None:
    async def twice() -> subprocess.CompletedProcess[str]:
        async with serving(resolve_env(Door)) as url:
            command = [sys.executable, "-m", "agentgrpo.cli.main", "env", "serve", "shop", "--port", url.split(":")[-1]]
            return await asyncio.to_thread(
                subprocess.run, command, capture_output=True, text=True, timeout=300, cwd=ROOT
            )

    done = asyncio.run(twice())
    assert done.returncode == 2
    assert "choose another --port" in done.stderr
    assert "Traceback" not in done.stderr
