from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("mcp")

from agentgrpo.envs.shop.env import Shop
from agentgrpo.errors import ToolError, ToolFailure
from agentgrpo.tools.faces import tools_of
from agentgrpo.tools.mcp.servers import McpServer
from agentgrpo.tools.mcp.session import McpSession, open_sessions
from agentgrpo.tools.mcp.toolbox import McpTools
from agentgrpo.tools.mcp_face import McpFace
from agentgrpo.tools.shop import ShopApp
from agentgrpo.types import JsonObject
from tests.tools.mcp.servers import serving
from tests.tools.remote_shop import RemoteApp, RemoteShop, solve


class McpApp(RemoteApp):
    """A shop behind the face: each reset begins a session, in a state that was put where the server finds it."""

    def __init__(self, box: McpTools, start: Path) -> None:
        self._box, self._start = box, start

    def restore(self, snapshot: bytes) -> None:
        self._start.write_bytes(snapshot)
        self._box.restart()

    def call(self, name: str, arguments: JsonObject) -> str:
        return self._box.call(name, **arguments)

    def state(self) -> JsonObject:
        state: JsonObject = json.loads(self._box.read("app://state"))
        return state

    def state_hash(self) -> str:
        return str(self._box.read("app://state-hash"))

    def close(self) -> None:
        self._box.close()


@pytest.fixture
def start(tmp_path: Path) -> Path:
    """The file with the state the next session begins with."""
    file = tmp_path / "start.db"
    file.write_bytes(ShopApp().snapshot())
    return file


@pytest.fixture
def face(start: Path) -> McpFace:
    return McpFace("shop", lambda: ShopApp(start.read_bytes()))


@pytest.fixture
def over_http(face: McpFace) -> Iterator[McpServer]:
    with serving(face.http_app()) as url:
        yield McpServer(url=f"{url}/mcp", name="shop")


def over_stdio(start: Path) -> McpServer:
    command = (sys.executable, "-m", "agentgrpo.tools.mcp_face", "shop", "--snapshot", str(start))
    return McpServer(command=command, name="shop", env=("PYTHONPATH",))


def check_oracle(server: McpServer, start: Path, rows: list[JsonObject]) -> None:
    remote, here = RemoteShop(McpApp(McpTools(server), start)), Shop()
    try:
        solved = [solve(remote, row) for row in rows]
    finally:
        remote.close()
    assert solved == [solve(here, row) for row in rows]  # the same state after every step
    assert all(reward == 1.0 for reward, _ in solved)


def test_the_oracle_solves_twenty_tasks_over_http(over_http: McpServer, start: Path, face: McpFace) -> None:
    check_oracle(over_http, start, list(Shop.tasks("train")[:20]))
    assert face.sessions._apps == {}  # each session's end was heard


@pytest.mark.parametrize("count", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_the_oracle_solves_tasks_over_standard_input_and_output(
    start: Path, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    check_oracle(over_stdio(start), start, list(Shop.tasks("train")[:count]))


def test_its_tools_look_like_those_in_process(over_http: McpServer) -> None:
    box = McpTools(over_http)
    app = ShopApp()
    app.insert("customers", [{"id": "C1", "name": "Ada Stone"}])
    try:
        shown = {tool.name: tool.schema for tool in box.tools()}
        assert shown == {name: tool.schema for name, tool in tools_of(app).items()}
        assert json.dumps(shown) == json.dumps({name: tool.schema for name, tool in tools_of(app).items()})
    finally:
        box.close()


def test_sessions_are_apart_and_errors_are_results(over_http: McpServer) -> None:
    first, second = McpSession(over_http), McpSession(over_http)
    open_sessions([first, second])
    try:
        refused = first.call("find_customer", {"name": "Eve"})
        assert refused.is_error
        assert refused.content[0].text == "no customer is called 'Eve'"  # type: ignore[union-attr]
        with pytest.raises(ToolError, match="there is no tool 'snapshot'"):
            first.call("snapshot", {})
        with pytest.raises(ToolFailure, match="there is no resource 'app://secrets'"):
            first.read("app://secrets")
        assert first.call("list_orders", {"customer": 5}).is_error
    finally:
        first.close()
        second.close()


async def test_without_a_session_there_is_no_state(over_http: McpServer) -> None:
    """The newest revision of the protocol has no sessions over HTTP."""
    from mcp import Client, MCPError

    async with Client(over_http.url, mode="auto") as client:
        with pytest.raises(MCPError, match="keeps a state per session"):
            await client.list_tools()


def test_a_persons_mistakes_are_told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from agentgrpo.tools.mcp_face import main

    monkeypatch.setattr(sys, "argv", ["mcp_face", "shp"])
    assert main() == 2
    assert "cannot import the app 'shp'" in capsys.readouterr().err
