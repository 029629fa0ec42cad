"""Ready-made tools that request URLs: a model gives a URL or a path, and reads what comes back.

It does not know what is behind the URLs; a service with an OpenAPI document is better served by `openapi_tools`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from agentgrpo.errors import EnvError
from agentgrpo.tooling import Tool, as_tool
from agentgrpo.tools.http.client import HttpClient
from agentgrpo.tools.http.order import checked_method
from agentgrpo.types import Json

TOOL_GRACE = 5.0  # seconds a tool has after its client's deadline: the client's own message is the better one
_WITHOUT_BODY = ("GET", "HEAD", "OPTIONS", "DELETE")


def web_tools(client: HttpClient, methods: Sequence[str] = ("GET",)) -> list[Tool]:
    """Return one tool per method, called `http_get` and so on, over the hosts a client may reach.

    Raises:
        EnvError: a method is none of HTTP's.
    """
    if not methods:
        raise EnvError("web_tools got no methods; expected some of GET, POST, PUT, PATCH, DELETE, HEAD")
    return [_web_tool(client, checked_method(method)) for method in methods]


def _web_tool(client: HttpClient, method: str) -> Tool:
    async def bare(url: str) -> Json:
        return (await client.request(method, url)).readable

    async def with_body(url: str, body: dict[str, Any] | None = None) -> Json:
        return (await client.request(method, url, json=body)).readable

    tool = as_tool(bare if method in _WITHOUT_BODY else with_body)
    return replace(
        tool, name=f"http_{method.lower()}", description=_description(client, method), deadline=tool_deadline(client)
    )


def tool_deadline(client: HttpClient) -> float:
    """Return the deadline, in seconds, of a tool that makes one request."""
    return client.deadline + TOOL_GRACE


def _description(client: HttpClient, method: str) -> str:
    reach = client.reach
    paths = "" if reach.base is None else f" or a path below {reach.base.origin}{reach.base.path.rstrip('/')}"
    body = "" if method in _WITHOUT_BODY else " with a JSON body"
    return f"Send a {method} request{body}. url is a whole URL{paths}. Hosts: {', '.join(map(str, reach.rules))}."
