"""Where MCP servers are, and what is expected of them: as an author writes it, or a configuration file.

It talks to nobody.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from agentgrpo.errors import EnvError, nearest
from agentgrpo.tooling import one_line
from agentgrpo.types import JsonObject

# What a started server may know of this machine. Its secrets are named one by one.
_INHERITED = ("HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "SHELL", "TERM", "TMPDIR", "USER")


@dataclass(frozen=True, slots=True, kw_only=True)
class McpServer:
    """One server: either a `command` or a `url`.

    Args:
        command: Program and arguments of a server that talks on its standard input and output. Each session starts one.
        url: Where a server listens that talks Streamable HTTP.
        name: What messages call it; "" means its command or url.
        prefix: Put before the names of its tools, where two servers have one of the same name.
        pin: What `agentgrpo.tools.mcp` prints for it; other tools stop the run. "": the run's first listing counts.
        env: Names of environment variables a started server gets besides PATH, HOME, LANG and the like.
        headers: HTTP headers, each with the name of the environment variable that holds its value.
        connect_seconds: Deadline for the handshake, the start of a program included.
        list_seconds: Deadline for one listing of its tools.
        call_seconds: Deadline of a call. With the 5 s it then has to answer a ping it must be below
            `rollout.tool_seconds`, or a hung server costs an abandoned thread.

    Raises:
        EnvError: it has neither command nor url, or both, or a number that is no positive one.
    """

    command: tuple[str, ...] = ()
    url: str = ""
    name: str = ""
    prefix: str = ""
    pin: str = ""
    env: tuple[str, ...] = ()
    headers: Mapping[str, str] | None = None
    connect_seconds: float = 20.0
    list_seconds: float = 10.0
    call_seconds: float = 30.0

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if bool(self.command) == bool(self.url):
            raise EnvError("an MCP server has either a command, like ['python', 'server.py'], or a url; give one")
        if self.url and not self.url.startswith(("http://", "https://")):
            raise EnvError(f"the MCP server's url is '{self.url}', expected http://... or https://...")
        if self.url and self.env:
            raise EnvError(f"{self}: env is for a server that is started; a url's secrets go into headers")
        if self.command and self.headers:
            raise EnvError(f"{self}: headers are for a url; a started server gets its secrets by env")
        for key in ("connect_seconds", "list_seconds", "call_seconds"):
            if not getattr(self, key) > 0:
                raise EnvError(f"{self}: {key} is {getattr(self, key)}, expected seconds above 0")

    def __str__(self) -> str:
        return f"the MCP server '{self.name or one_line(self.place, 60)}'"

    @property
    def place(self) -> str:
        """What it is told apart by: the command line or the url."""
        return shlex.join(self.command) or self.url

    def environment(self) -> dict[str, str]:
        """Return the environment variables a started server gets."""
        return {name: os.environ[name] for name in (*_INHERITED, *self.env) if name in os.environ}

    def header_values(self) -> dict[str, str]:
        """Return the HTTP headers to send."""
        return {header: os.environ[name] for header, name in (self.headers or {}).items()}

    def check(self) -> None:
        """Raise EnvError when this machine lacks its program, or an environment variable it is to get."""
        if self.command and shutil.which(self.command[0]) is None:
            raise EnvError(f"{self}: there is no program '{self.command[0]}' to start; install it, or give its path")
        for name in (*self.env, *(self.headers or {}).values()):
            if name not in os.environ:
                raise EnvError(f"{self} needs the environment variable {name}, which is not set: export it first")


def as_server(given: McpServer | Mapping[str, Any]) -> McpServer:
    """Return the server of a table in a configuration file.

    Raises:
        EnvError: a key is unknown, or a value has the wrong type.
    """
    if isinstance(given, McpServer):
        return given
    if not isinstance(given, Mapping):
        raise EnvError(f"an MCP server is {given!r}, expected a table like {{command = ['python', 'server.py']}}")
    known = {field.name: field.default for field in fields(McpServer)}
    for key, value in given.items():
        if key not in known:
            raise EnvError(f"an MCP server has no '{key}'; it has {', '.join(known)}.{nearest(str(key), known)}")
        if not _fits(key, value, known[key]):
            raise EnvError(f"an MCP server's {key} is {value!r}, expected {_expected(key, known[key])}")
    values: JsonObject = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    return McpServer(**values)


def _fits(key: str, value: Any, default: Any) -> bool:
    if key == "headers":
        return isinstance(value, Mapping) and all(isinstance(v, str) for item in value.items() for v in item)
    if isinstance(default, tuple):
        is_list = isinstance(value, Sequence) and not isinstance(value, str)
        return is_list and all(isinstance(item, str) for item in value)
    if isinstance(default, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, str)


def _expected(key: str, default: Any) -> str:
    if key == "headers":
        return "a table of header = 'NAME_OF_AN_ENVIRONMENT_VARIABLE'"
    return {tuple: "a list of strings", float: "a number of seconds"}.get(type(default), "a string")
