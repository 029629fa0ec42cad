from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from agentgrpo.errors import EnvError, ToolFailure
from agentgrpo.tooling import ToolResult
from agentgrpo.tools.http import HttpClient, web_tools
from agentgrpo.types import Json
from tests.tools.http.network import Service


async def items(request: web.Request) -> web.StreamResponse:
    return web.json_response({"items": [1, 2], "body": (await request.read()).decode()})


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    async with Service({"/v1/items": items}) as service:
        yield service


async def call(client: HttpClient, name: str, arguments: Json) -> ToolResult:
    tools = {tool.name: tool for tool in web_tools(client, ["GET", "POST", "DELETE"])}
    return await asyncio.to_thread(tools[name].call, arguments)


async def test_a_model_reads_what_comes_back(service: Service) -> None:
    client = HttpClient(f"{service.url}/v1", allow_private=True)
    assert await call(client, "http_get", {"url": "/items"}) == ('{"items": [1, 2], "body": ""}', False)
    posted = await call(client, "http_post", {"url": "/items", "body": {"a": [1]}})
    assert json.loads(posted.content)["body"] == '{"a": [1]}'
    assert (await call(client, "http_delete", {"url": f"{service.url}/v1/x"})).content == "hit"


@pytest.mark.parametrize(
    ("arguments", "kind", "told"),
    [
        ({"url": "http://169.254.169.254/latest"}, "tool_error", "may not be requested; allowed are 127.0.0.1:"),
        ({"url": "items"}, "tool_error", "begins with http:// or https://; a path begins with one slash"),
        ({"url": "/../x"}, "tool_error", "a . or .. in it"),
        ({"url": 3}, "invalid_arguments", "expected a valid string"),
        ({}, "invalid_arguments", "argument 'url' is missing"),
        ({"url": "/items", "x": 1}, "invalid_arguments", "argument 'x': expected only url"),
    ],
)
async def test_what_a_model_gets_wrong_is_told_in_one_line(
    service: Service, arguments: Json, kind: str, told: str
) -> None:
    result = await call(HttpClient(f"{service.url}/v1", allow_private=True), "http_get", arguments)
    error = json.loads(result.content)["error"]
    assert result.is_error
    assert error["type"] == kind
    assert told in error["message"]


async def test_a_service_that_hangs_fails_the_episode_before_the_tools_own_deadline(service: Service) -> None:
    async def hang(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(60)
        return web.Response()

    service.routes["/v1/hang"] = hang
    client = HttpClient(f"{service.url}/v1", allow_private=True, deadline=0.3)
    assert all(tool.deadline > client.deadline for tool in web_tools(client))
    with pytest.raises(ToolFailure, match=r"no answer within 0\.3 s"):
        await call(client, "http_get", {"url": "/hang"})


def test_the_model_is_told_which_hosts_there_are() -> None:
    (tool,) = web_tools(HttpClient("https://api.example/v2/", allow=["docs.example"]))
    assert tool.description == (
        "Send a GET request. url is a whole URL or a path below https://api.example/v2. "
        "Hosts: api.example:443, docs.example."
    )
    assert tool.parameters == {"type": "object", "properties": {"url": {"type": "string"}}, "required": ["url"]}


@pytest.mark.parametrize("methods", [[], ["get"], ["TRACE"]])
def test_only_methods_of_http_become_tools(methods: list[str]) -> None:
    with pytest.raises(EnvError):
        web_tools(HttpClient("https://api.example"), methods)
