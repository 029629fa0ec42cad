from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from agentgrpo.errors import EnvError, ToolError, ToolFailure
from agentgrpo.tools.http import Auth, HttpClient, RefusedRequest, web_tools
from tests.tools.http.network import Service

SECRET = "canary/7f3a+9c=="  # as it would be escaped in JSON and in URLs


@pytest.fixture(autouse=True)
def _token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_TOKEN", SECRET)


async def echo(request: web.Request) -> web.StreamResponse:
    """Answer with the credential, in every form a service could."""
    value = request.headers.get("Authorization", request.headers.get("X-Api-Key", ""))
    text = json.dumps({"plain": value, "url": "canary%2F7f3a%2B9c%3D%3D", "escaped": "ESCAPED"})
    text = text.replace("ESCAPED", value.replace("/", "\\/"))
    status = int(request.query.get("status", "200"))
    return web.Response(text=text, status=status, headers={"X-Echo": value}, content_type="application/json")


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    async with Service({"/echo": echo}) as service:
        yield service


def client_of(service: Service, auth: Auth, *, allow: list[str] | None = None) -> HttpClient:
    return HttpClient(service.url, allow=allow or [], allow_private=True, auth=auth, retries=0)


@pytest.mark.parametrize(
    ("options", "header", "value"),
    [
        ({}, "Authorization", f"Bearer {SECRET}"),
        ({"header": "X-Api-Key", "scheme": ""}, "X-Api-Key", SECRET),
    ],
)
async def test_the_secret_is_sent_and_never_comes_back(
    service: Service, options: dict[str, str], header: str, value: str
) -> None:
    auth = Auth(variable="SHOP_TOKEN", **options)
    client = client_of(service, auth)
    answer = await client.request("GET", "/echo")
    assert service.hits[0].headers[header] == value
    assert "canary" not in answer.text + str(answer.headers) + repr(answer)
    assert answer.text.count("***") >= 3
    for held in (auth, client, vars(client), answer):
        assert "canary" not in repr(held)


async def test_no_error_repeats_the_secret(service: Service) -> None:
    client = client_of(service, Auth(variable="SHOP_TOKEN"))
    told = []
    for status, kind in ((404, RefusedRequest), (401, ToolFailure), (500, ToolFailure)):
        with pytest.raises(kind) as error:
            await client.request("GET", f"/echo?status={status}")
        told.append(str(error.value))
    assert all("***" in text and "canary" not in text for text in told)
    assert "does not take the credential in $SHOP_TOKEN" in told[1]


async def test_a_tool_cannot_show_the_secret_to_a_model(service: Service) -> None:
    (tool,) = web_tools(client_of(service, Auth(variable="SHOP_TOKEN")))
    for target in ("/echo", "/echo?status=403"):
        content = (await asyncio.to_thread(tool.call, {"url": target})).content
        assert "***" in content and "canary" not in content


async def test_credentials_go_to_their_own_origin_only(service: Service) -> None:
    async with Service() as other:

        async def away(request: web.Request) -> web.StreamResponse:
            return web.Response(status=307, headers={"Location": f"{other.url}/x"})

        service.routes["/away"] = away
        client = client_of(service, Auth(variable="SHOP_TOKEN"), allow=[f"127.0.0.1:{other.port}"])
        await client.request("GET", "/away")
        await client.request("GET", f"{other.url}/direct")
        assert [hit.path for hit in other.hits] == ["/x", "/direct"]
        assert all("Authorization" not in hit.headers for hit in other.hits)
        assert "Authorization" in service.hits[0].headers


async def test_the_header_cannot_be_given_another_value(service: Service) -> None:
    with pytest.raises(EnvError, match="'authorization' cannot be given"):
        await client_of(service, Auth(variable="SHOP_TOKEN")).request("GET", "/", headers={"authorization": "Bearer x"})


async def test_a_401_without_a_credential_is_the_models_to_read(service: Service) -> None:
    with pytest.raises(ToolError, match="401 Unauthorized"):
        await HttpClient(service.url, allow_private=True).request("GET", "/echo?status=401")


async def test_the_variable_is_read_when_it_is_sent(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    client = client_of(service, Auth(variable="SHOP_TOKEN"))
    monkeypatch.setenv("SHOP_TOKEN", "renewed")
    await client.request("GET", "/x")
    assert service.hits[0].headers["Authorization"] == "Bearer renewed"
    monkeypatch.delenv("SHOP_TOKEN")
    with pytest.raises(EnvError, match="SHOP_TOKEN is not set"):
        await client.request("GET", "/x")


@pytest.mark.parametrize("value", ["", "  ", "a\r\nX: y", "é", "a\x00b"])
def test_a_variable_without_a_usable_value_is_an_error_that_does_not_show_it(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    if "\x00" in value:
        value = "a\x01b"  # no environment holds a NUL
    monkeypatch.setenv("SHOP_TOKEN", value)
    with pytest.raises(EnvError, match="SHOP_TOKEN") as error:
        Auth(variable="SHOP_TOKEN")
    assert not value.strip() or value not in str(error.value)


def test_a_secret_given_instead_of_its_variable_is_not_repeated() -> None:
    with pytest.raises(EnvError, match="takes the name of an environment variable") as error:
        Auth(variable="sk-canary-123")
    assert "canary" not in str(error.value)


def test_a_credential_needs_a_service() -> None:
    with pytest.raises(EnvError, match="auth needs a base_url"):
        HttpClient(allow=["a.example"], auth=Auth(variable="SHOP_TOKEN"))
