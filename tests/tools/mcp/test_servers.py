from __future__ import annotations

from typing import Any

import pytest

from agentgrpo.errors import EnvError
from agentgrpo.tools.mcp.servers import McpServer, as_server


def test_a_table_of_a_configuration_file_is_a_server() -> None:
    table = {"command": ["python", "server.py"], "env": ["TOKEN"], "call_seconds": 5, "prefix": "n."}
    server = as_server(table)
    assert server == McpServer(command=("python", "server.py"), env=("TOKEN",), call_seconds=5, prefix="n.")
    assert as_server(server) is server
    assert str(server) == "the MCP server 'python server.py'"
    assert server.place == "python server.py"
    assert str(as_server({"url": "http://localhost:1/mcp"})) == "the MCP server 'http://localhost:1/mcp'"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "either a command, like .* or a url; give one"),
        ({"command": ["a"], "url": "http://b"}, "either a command"),
        ({"url": "ftp://b"}, "url is 'ftp://b', expected http://... or https://..."),
        ({"comand": ["a"]}, "has no 'comand'.*Did you mean 'command'"),
        ({"command": "python server.py"}, "command is 'python server.py', expected a list of strings"),
        ({"command": ["a", 1]}, "expected a list of strings"),
        ({"command": ["a"], "call_seconds": "5"}, "call_seconds is '5', expected a number of seconds"),
        ({"command": ["a"], "call_seconds": 0}, "call_seconds is 0, expected seconds above 0"),
        ({"command": ["a"], "call_seconds": float("nan")}, "call_seconds is nan"),
        ({"command": ["a"], "pin": 5}, "pin is 5, expected a string"),
        ({"command": ["a"], "headers": {"A": "B"}}, "headers are for a url"),
        ({"url": "http://a", "env": ["A"]}, "env is for a server that is started"),
        ({"url": "http://a", "headers": {"A": 5}}, "expected a table of header"),
        ("python", "is 'python', expected a table"),
    ],
)
def test_what_is_no_server_is_refused(table: Any, message: str) -> None:
    with pytest.raises(EnvError, match=message):
        as_server(table)


def test_what_this_machine_lacks_is_said_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EnvError, match="there is no program 'no-such-program' to start"):
        McpServer(command=("no-such-program",)).check()
    server = McpServer(url="http://a", headers={"Authorization": "NOTES_TOKEN"})
    with pytest.raises(EnvError, match="needs the environment variable NOTES_TOKEN"):
        server.check()
    monkeypatch.setenv("NOTES_TOKEN", "Bearer x")
    server.check()
    assert server.header_values() == {"Authorization": "Bearer x"}
