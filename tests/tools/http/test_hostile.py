"""What a model can write to reach inside: nothing of it may connect, whatever notation, name, redirect or rebinding."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

import aiohttp
import pytest
from aiohttp import web

from agentgrpo.errors import ToolError, ToolFailure
from agentgrpo.tools.http.client import HttpClient
from tests.tools.http.hostile_urls import INSIDE, MIXED, NAMES, corpus
from tests.tools.http.network import PUBLIC, PUBLIC_ADDRESSES, Names, Service, watch

ALL_NAMES: dict[str, Sequence[Sequence[str]]] = {**NAMES, **MIXED, PUBLIC: [PUBLIC_ADDRESSES]}


def open_client(port: int, names: Names) -> HttpClient:
    """Return the widest client there is: any public host, also on the port the server listens on."""
    return HttpClient(allow=["*", f"*:{port}"], resolver=names, retries=0, deadline=60.0)


async def is_refused(client: HttpClient, url: str) -> bool:
    try:
        await client.request("GET", url)
    except ToolError:
        return True
    return False


async def test_no_hostile_url_is_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Service() as service:
        seen = watch(monkeypatch, service)
        client, urls = open_client(service.port, Names(ALL_NAMES)), corpus(service.port)
        assert len(set(urls)) >= 200
        passed = [url for url in urls if not await is_refused(client, url)]
        assert passed == []
        assert seen == []
        assert service.hits == []


async def test_the_same_client_does_reach_the_public_internet(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Service() as service:
        seen = watch(monkeypatch, service)
        client = open_client(service.port, Names(ALL_NAMES))
        for host in (PUBLIC, PUBLIC_ADDRESSES[0], f"[{PUBLIC_ADDRESSES[1]}]"):
            assert (await client.request("GET", f"http://{host}:{service.port}/")).text == "hit"
        assert set(seen) <= set(PUBLIC_ADDRESSES)
        assert len(service.hits) == 3


async def test_a_client_without_the_policy_is_led_inside_by_dozens_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Service() as service:
        seen = watch(monkeypatch, service)
        connector = aiohttp.TCPConnector(resolver=Names(ALL_NAMES), use_dns_cache=False, force_close=True)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=60)) as session:
            for url in corpus(service.port):
                try:
                    async with session.get(url) as response:
                        await response.read()
                except (aiohttp.ClientError, OSError, ValueError, LookupError):
                    continue
        assert len(service.hits) >= 20
        assert len(set(seen) - set(PUBLIC_ADDRESSES)) >= 40


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_redirect_leads_inside(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    target = ""

    async def redirect(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, headers={"Location": target})

    async with Service({"/start": redirect}) as service:
        seen = watch(monkeypatch, service)
        client, passed = open_client(service.port, Names(ALL_NAMES)), list[str]()
        targets = [url for url in corpus(service.port) if is_header(url)]
        assert len(targets) >= 180
        for target in targets:
            service.hits.clear()
            if not await is_refused(client, f"http://{PUBLIC}:{service.port}/start"):
                passed.append(target)
            # Some are paths for a redirect, of the public host itself: "127.0.0.1:80" is one.
            assert all(hit.headers["Host"].startswith(PUBLIC) for hit in service.hits)
        assert set(seen) <= set(PUBLIC_ADDRESSES)
        assert {url for url in passed if "://" in url} == set()


def is_header(text: str) -> bool:
    """Return whether a server of ours would send a text in a header."""
    return text.isascii() and text.isprintable() and len(text) < 4000


async def test_a_chain_of_redirects_is_checked_at_each_hop_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hop(request: web.Request) -> web.StreamResponse:
        left = int(request.query["left"])
        end = f"http://{request.query['end']}/end"
        onward = f"http://{PUBLIC}:{service.port}/hop?left={left - 1}&end={request.query['end']}"
        return web.Response(status=302, headers={"Location": onward if left else end})

    async with Service({"/hop": hop}) as service:
        seen = watch(monkeypatch, service)
        client = open_client(service.port, Names(ALL_NAMES))
        start = f"http://{PUBLIC}:{service.port}/hop?left={{}}&end={{}}:{service.port}"
        assert (await client.request("GET", start.format(4, PUBLIC))).text == "hit"
        with pytest.raises(ToolError, match=r"loopback"):
            await client.request("GET", start.format(3, "127.0.0.1"))
        with pytest.raises(ToolError, match=r"leads to an address that is not reached from here: 127\.0\.0\.1"):
            await client.request("GET", start.format(3, "localhost"))
        with pytest.raises(ToolError, match="more than 5 times"):
            await client.request("GET", start.format(5, PUBLIC))
        assert set(seen) <= set(PUBLIC_ADDRESSES)


async def test_a_name_that_rebinds_between_two_lookups_is_never_followed_inside(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def bye(request: web.Request) -> web.StreamResponse:
        response = web.Response()
        response.force_close()  # an open connection would be used again, without a look-up
        return response

    async with Service({"/": bye}) as service:
        seen = watch(monkeypatch, service)
        names = Names({"rebind.example": [[PUBLIC_ADDRESSES[0]], ["127.0.0.1"], [PUBLIC_ADDRESSES[0]], ["10.0.0.1"]]})
        client, url = open_client(service.port, names), f"http://rebind.example:{service.port}/"
        outcomes = [await is_refused(client, url) for _ in range(4)]
        assert outcomes == [False, True, False, True]
        assert names.lookups["rebind.example"] == 4  # once per connection: what was checked is what was connected to
        assert seen == [PUBLIC_ADDRESSES[0]] * 2
        assert len(service.hits) == 2


async def test_many_requests_at_once_race_no_check(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Service() as service:
        seen = watch(monkeypatch, service)
        flips = [[PUBLIC_ADDRESSES[0]], ["127.0.0.1"]] * 50
        client = open_client(service.port, Names({"flip.example": flips}))
        url = f"http://flip.example:{service.port}/"
        outcomes = await asyncio.gather(*(is_refused(client, url) for _ in range(80)))
        assert any(outcomes)
        assert set(seen) == {PUBLIC_ADDRESSES[0]}


@pytest.mark.parametrize("address", INSIDE)
async def test_a_named_service_at_a_refused_address_fails_the_episode_and_says_why(address: str) -> None:
    client = HttpClient("http://api.example", resolver=Names({"api.example": [[address]]}), retries=0)
    with pytest.raises(ToolFailure, match=r"api\.example leads to .*; allow_private=True"):
        await client.request("GET", "/")


async def test_private_services_never_include_metadata_link_local_and_the_like(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Service() as service:
        seen = watch(monkeypatch, service)
        for address in INSIDE:
            names = Names({"api.example": [[address]]})
            base = f"http://api.example:{service.port}"
            client = HttpClient(base, allow_private=True, resolver=names, retries=0)
            # What is private may be reached; the watched network answers for loopback only.
            with (
                contextlib.suppress(ToolFailure)
                if is_private(address)
                else pytest.raises(ToolFailure, match="leads to")
            ):
                await client.request("GET", "/")
        assert set(seen) == {address for address in INSIDE if is_private(address)}


def is_private(address: str) -> bool:
    prefixes = ("127.", "10.", "172.", "192.168.", "100.64", "100.127", "fc00")
    return address.startswith(prefixes) or address == "::1"
