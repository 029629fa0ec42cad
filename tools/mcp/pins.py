"""What the tools of MCP servers looked like when a run first saw them: the contract its episodes are run under.

A tool's name, description and schema are text a model obeys, so a server that changes them in mid-run is a way in
for whoever controls it, and makes episodes incomparable. It does not know where listings come from.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
import weakref
from collections.abc import Iterable

from agentgrpo.errors import RunError
from agentgrpo.tooling import TOOL_LOOP, one_line
from agentgrpo.tools.mcp.servers import McpServer
from agentgrpo.types import JsonObject

_SHOWN = 80  # characters of what differs
PARTS = ("description", "inputSchema")

_of_run: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Pins] = weakref.WeakKeyDictionary()
_of_run_lock = threading.Lock()


class Pins:
    """The tools that were seen, by server and name."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], dict[str, str]] = {}
        self._lock = threading.Lock()

    def check(self, server: McpServer, listing: Iterable[JsonObject]) -> None:
        """Remember the tools that are new, and compare the others.

        Args:
            server: Whose they are.
            listing: Each with a name, a description and an inputSchema.

        Raises:
            RunError: one changed.
        """
        for tool in listing:
            now = {part: canonical(tool[part]) for part in PARTS}
            with self._lock:
                before = self._seen.setdefault((server.place, tool["name"]), now)
            for part in PARTS:
                if now[part] != before[part]:
                    raise RunError(
                        f"the tool '{tool['name']}' of {server} changed since the run began: its {part} was "
                        f"{_differing(before[part], now[part])}. What a tool says of itself is read by the model: "
                        "find out who changed it, then start a new run"
                    )


def pins_of_run() -> Pins | None:
    """Return what the rollout has seen that this thread works for; None outside of one."""
    loop = TOOL_LOOP.get()
    if loop is None:
        return None
    with _of_run_lock:
        return _of_run.setdefault(loop, Pins())


def pin_of(listing: Iterable[JsonObject]) -> str:
    """Return the SHA-256 of the tools of a listing, whatever their order."""
    tools = sorted(canonical([tool["name"], *(tool[part] for part in PARTS)]) for tool in listing)
    return "sha256:" + hashlib.sha256("\n".join(tools).encode()).hexdigest()


def check_pin(server: McpServer, listing: Iterable[JsonObject]) -> None:
    """Raise RunError when a server has a pin and its first listing another one."""
    if server.pin and (found := pin_of(listing)) != server.pin:
        raise RunError(
            f"{server} is pinned to {server.pin}, its tools are {found}: they are not those that were agreed on. "
            f"`python -m agentgrpo.tools.mcp` lists them: read what they say, and pin what you trust"
        )


def canonical(value: object) -> str:
    """Return JSON that is equal for equal values; a lone surrogate stays what it is."""
    return json.dumps(value, sort_keys=True, ensure_ascii=True)


def _differing(before: str, now: str) -> str:
    """Return both texts from shortly before where they part."""
    at = next((i for i, (b, n) in enumerate(zip(before, now, strict=False)) if b != n), min(len(before), len(now)))
    start = max(0, at - _SHOWN // 4)
    return f"...{one_line(before[start:], _SHOWN)} and is ...{one_line(now[start:], _SHOWN)}"
