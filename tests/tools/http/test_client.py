from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from agentgrpo.errors import EnvError, ToolError, ToolFailure
from agentgrpo.tools.http.client import HttpClient, RefusedRequest
from tests.clock import leap
from tests.tools.http.network import PUBLIC, PUBLIC_ADDRESSES, Handler, Names, Service, watch


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    async with Service() as service:
        yield service


def client_of(service: Service, path: str = "", **options: Any) -> HttpClient:
    return HttpClient(service.url + path, allow_private=True, **options)


def answers(*steps: web.Response | float) -> Handler:
    """Return a handler that answers in turn with these, the last again and again; a number is an answer so late."""
    left = list(steps)

    async def handler(request: web.Request) -> web.StreamResponse:
        step = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(step, float):
            leap(step)
            await asyncio.sleep(step)
            return web.Response(text="late")
        return web.Response(status=step.status, text=step.text, headers={**step.headers})

    return handler


def failing(status: int, **headers: str) -> web.Response:
    return web.Response(
        status=status, text="no", headers={name.replace("_", "-"): value for name, value in headers.items()}
    )


OK = web.Response(text="fine")


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


async def test_a_request_carries_path_query_headers_and_body(service: Service) -> None:
    client = client_of(service, "/v2/")
    answer = await client.request(
        "POST", "/items/a%2Fb?x=1", query={"y": "a b", "z": "é&"}, json={"name": "ü"}, headers={"X-Trace": "7"}
    )
    (request,) = service.hits
    assert answer.status == 200 and answer.text == "hit"
    assert request.raw_path == "/v2/items/a%2Fb?x=1&y=a+b&z=%C3%A9%26"
    assert (request.method, request.headers["X-Trace"]) == ("POST", "7")
    assert request.headers["Content-Type"] == "application/json"
    assert service.bodies == [b'{"name": "\\u00fc"}']


async def test_what_the_service_refuses_is_one_short_line_for_the_model(service: Service) -> None:
    service.routes["/x"] = answers(web.Response(status=404, text="no such\n\n item " + "x" * 5000))
    with pytest.raises(
        RefusedRequest, match=r"^404 Not Found: no such item x+\.\.\. \(4\d+ more characters\)$"
    ) as error:
        await client_of(service).request("GET", "/x")
    assert error.value.answer.status == 404
    assert len(service.hits) == 1


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD", "OPTIONS"])
@pytest.mark.parametrize("status", [500, 502, 503, 504, 408, 429])
async def test_what_is_idempotent_is_asked_again(service: Service, method: str, status: int) -> None:
    service.routes["/x"] = answers(failing(status), failing(status), OK)
    client = client_of(service, rng=fast())
    assert (await client.request(method, "/x")).status == 200
    assert len(service.hits) == 3
    assert client.repeated == {str(status): 2}


@pytest.mark.parametrize("method", ["POST", "PATCH"])
async def test_what_is_not_idempotent_is_sent_once_unless_the_author_says_so(service: Service, method: str) -> None:
    service.routes["/x"] = answers(failing(503), OK)
    client = client_of(service, rng=fast())
    with pytest.raises(ToolFailure, match=r"the service answered 503 Service Unavailable: no; asked 1 times"):
        await client.request(method, "/x", json={})
    service.routes["/x"] = answers(failing(503), OK)
    assert (await client.request(method, "/x", json={}, idempotent=True)).text == "fine"
    assert len(service.hits) == 3


async def test_what_surely_had_no_effect_is_asked_again_whatever_the_method(service: Service) -> None:
    service.routes["/x"] = answers(failing(429), OK)
    assert (await client_of(service, rng=fast()).request("POST", "/x", json={})).text == "fine"
    client = HttpClient(f"http://127.0.0.1:{closed_port()}", allow_private=True, rng=fast())
    with pytest.raises(ToolFailure, match=r"no connection: .*; asked 4 times"):
        await client.request("POST", "/x", json={})
    assert client.repeated == {"connection": 3}


async def test_a_redirect_that_leads_nowhere_does_not_send_the_first_request_again(service: Service) -> None:
    away = f"http://127.0.0.1:{closed_port()}"
    service.routes["/x"] = answers(failing(303, Location=f"{away}/made"))
    client = client_of(service, allow=[away.removeprefix("http://")], rng=fast())
    with pytest.raises(ToolFailure, match=r"GET http://127.*/made: no connection: .*; asked 1 times"):
        await client.request("POST", "/x", json={})
    assert len(service.hits) == 1
    with pytest.raises(ToolFailure, match="asked 4 times"):
        await client.request("PUT", "/x", json={})


async def test_a_service_that_stays_down_fails_the_episode(service: Service) -> None:
    service.routes["/x"] = answers(failing(500))
    with pytest.raises(ToolFailure, match=r"GET http://127.0.0.1:\d+/x: the service answered 500 .*; asked 3 times"):
        await client_of(service, retries=2, rng=fast()).request("GET", "/x")


async def test_a_connection_that_breaks_is_asked_again_if_the_method_allows(service: Service) -> None:
    async def reset(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    service.routes["/x"] = reset
    client = client_of(service, retries=1, rng=fast())
    with pytest.raises(ToolFailure, match="the connection broke"):
        await client.request("GET", "/x")
    assert client.repeated == {"connection lost": 1}
    service.hits.clear()
    with pytest.raises(ToolFailure, match="asked 1 times"):
        await client.request("POST", "/x")
    assert len(service.hits) == 1


async def test_an_answer_that_is_cut_off_is_asked_again(service: Service) -> None:
    async def half(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b"half")
        assert request.transport is not None
        request.transport.abort()
        return response

    service.routes["/x"] = half
    client = client_of(service, retries=1, rng=fast())
    with pytest.raises(ToolFailure, match="the connection broke"):
        await client.request("GET", "/x")
    assert len(service.hits) == 2


async def test_retry_after_is_waited_for(service: Service) -> None:
    service.routes["/x"] = answers(failing(503, Retry_After="0.4"), OK)
    started = time.monotonic()
    assert (await client_of(service, rng=fast()).request("GET", "/x")).text == "fine"
    assert time.monotonic() - started >= 0.4


async def test_a_pause_that_would_pass_the_deadline_is_not_begun(service: Service) -> None:
    service.routes["/x"] = answers(failing(429, Retry_After="60"), OK)
    started = time.monotonic()
    with pytest.raises(ToolFailure, match=r"asked 1 times, and wants 60 s before the next"):
        await client_of(service, deadline=50.0).request("GET", "/x")
    assert time.monotonic() - started < 45


async def test_the_deadline_holds_for_the_whole_call(service: Service) -> None:
    service.routes["/x"] = answers(22.0, 22.0, 10.0)
    with pytest.raises(ToolFailure, match=r"no answer within 50 s"):
        await client_of(service, deadline=50, attempt_seconds=20, rng=fast(), retries=50).request("GET", "/x")
    assert len(service.hits) == 3


async def test_a_deadline_that_strikes_with_an_attempts_end_ends_the_call(service: Service) -> None:
    service.routes["/x"] = answers(60.0)
    with pytest.raises(ToolFailure, match=r"no answer within 50 s"):
        await client_of(service, deadline=50, attempt_seconds=20, rng=fast(), retries=50).request("GET", "/x")
    assert len(service.hits) == 1


async def test_a_call_cancelled_with_an_attempts_end_is_over(service: Service) -> None:
    async def hang(request: web.Request) -> web.StreamResponse:
        asyncio.get_running_loop().call_soon(call.cancel)
        leap(30)
        await asyncio.Event().wait()
        return web.Response()

    service.routes["/x"] = hang
    client = client_of(service, deadline=60, attempt_seconds=20, rng=fast())
    call = asyncio.create_task(client.request("GET", "/x"))
    await asyncio.wait([call])
    assert call.cancelled() and len(service.hits) == 1


async def test_an_attempt_that_hangs_leaves_time_for_another(service: Service) -> None:
    service.routes["/x"] = answers(30.0, OK)
    client = client_of(service, deadline=60, attempt_seconds=20, rng=fast())
    assert (await client.request("GET", "/x")).text == "fine"
    assert client.repeated == {"timeout": 1}


async def test_a_slow_drip_does_not_outlive_the_deadline(service: Service) -> None:
    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b".")
            await asyncio.sleep(0.02)

    service.routes["/x"] = drip
    started = time.monotonic()
    with pytest.raises(ToolFailure, match=r"no answer within 0\.4 s"):
        await client_of(service, deadline=0.4, attempt_seconds=60).request("GET", "/x")
    assert time.monotonic() - started < 45


async def test_cancelling_a_call_ends_it(service: Service) -> None:
    async def hang(request: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        return web.Response()

    service.routes["/x"] = hang
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await client_of(service).request("GET", "/x")


async def test_pauses_come_from_the_given_generator_and_from_no_global_one(service: Service) -> None:
    class Noted(random.Random):
        def uniform(self, a: float, b: float) -> float:
            drawn.append(super().uniform(a, b))
            return drawn[-1]

    before, expected = random.getstate(), random.Random(4)
    pauses = [expected.uniform(0, 0.25), expected.uniform(0, 0.5)]
    for _ in range(2):
        service.routes["/x"], drawn = answers(failing(503), failing(503), OK), list[float]()
        started = time.monotonic()
        await client_of(service, rng=Noted(4)).request("GET", "/x")
        assert drawn == pauses and time.monotonic() - started >= sum(pauses)
    await client_of(service).request("GET", "/y")
    assert random.getstate() == before


async def test_redirects_follow_the_method_rules(service: Service) -> None:
    for status, method, expected in (
        (301, "POST", ("GET", b"")),
        (302, "POST", ("GET", b"")),
        (303, "PUT", ("GET", b"")),
        (303, "HEAD", ("HEAD", b"")),
        (307, "POST", ("POST", b'{"a": 1}')),
        (308, "POST", ("POST", b'{"a": 1}')),
        (302, "PUT", ("PUT", b'{"a": 1}')),
    ):
        service.routes["/x"] = answers(failing(status, Location="/y"))
        await client_of(service).request(method, "/x", json=None if method == "HEAD" else {"a": 1})
        assert (service.hits[-1].method, service.bodies[-1]) == expected
        assert service.hits[-1].path == "/y"
        assert ("Content-Type" in service.hits[-1].headers) == bool(service.bodies[-1])


async def test_headers_do_not_follow_to_another_origin(service: Service) -> None:
    async with Service() as other:
        service.routes["/away"] = answers(failing(302, Location=f"{other.url}/y"))
        service.routes["/here"] = answers(failing(302, Location="/y"))
        client = client_of(service, allow=[f"127.0.0.1:{other.port}"])
        await client.request("GET", "/here", headers={"X-Trace": "7"})
        assert service.hits[-1].headers["X-Trace"] == "7"
        await client.request("GET", "/away", headers={"X-Trace": "7"})
        assert "X-Trace" not in other.hits[-1].headers


async def test_a_redirect_without_a_place_is_an_answer(service: Service) -> None:
    service.routes["/x"] = answers(failing(304))
    with pytest.raises(RefusedRequest, match="304 Not Modified"):
        await client_of(service).request("GET", "/x")


async def test_only_allowed_hosts_are_requested(service: Service) -> None:
    client = client_of(service, allow=["a.example", "*.b.example"][:1])
    for url in (
        "http://b.example/",
        "http://a.example:8080/",
        "http://x.a.example/",
        f"http://localhost:{service.port}/",
    ):
        with pytest.raises(ToolError, match=r"may not be requested; allowed are 127\.0\.0\.1:\d+, a\.example"):
            await client.request("GET", url)
    assert (await client.request("GET", f"{service.url}/whole")).text == "hit"
    for path in ("x", "//b.example/", "/../x", "/%2e%2e/x", "/a b", ""):
        with pytest.raises(ToolError):
            await client.request("GET", path)


async def test_a_url_that_became_too_long_is_not_sent(service: Service) -> None:
    with pytest.raises(ToolError, match="at most 4096 are accepted"):
        await client_of(service).request("GET", "/", query={"q": "x" * 5000})
    assert service.hits == []


async def test_where_the_model_chose_the_host_its_being_down_is_an_observation(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch(monkeypatch, service)
    names = Names({PUBLIC: [PUBLIC_ADDRESSES], "down.example": [["8.8.8.8"]], "named.example": [["8.8.8.8"]]})
    service.routes["/x"] = answers(failing(500))
    client = HttpClient(
        allow=["*", f"*:{service.port}", "named.example"], resolver=names, retries=0, deadline=60, attempt_seconds=20
    )
    service.routes["/slow"] = answers(30.0)
    service.routes["/away"] = answers(failing(302, Location="http://down.example/"))
    for url in (
        "http://nowhere.example/",
        "http://down.example/",
        *(f"http://{PUBLIC}:{service.port}/{p}" for p in ("x", "slow", "away")),
    ):
        with pytest.raises(ToolError):
            await client.request("GET", url)
    with pytest.raises(ToolFailure, match="no connection"):
        await client.request("GET", "http://named.example/")
    service.routes["/broken"] = answers(web.Response(text="<html>", headers={"Content-Type": "application/json"}))
    answer = await client.request("GET", f"http://{PUBLIC}:{service.port}/broken")
    with pytest.raises(ToolError, match="what is not JSON"):
        _ = answer.readable


async def test_cookies_are_not_kept_so_episodes_share_nothing(service: Service) -> None:
    service.routes["/x"] = answers(failing(200, Set_Cookie="session=1"))
    client = client_of(service)
    await client.request("GET", "/x")
    await client.request("GET", "/x")
    assert "Cookie" not in service.hits[1].headers


async def test_a_proxy_of_the_environment_is_not_used(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port()}")
    assert (await client_of(service).request("GET", "/x")).text == "hit"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({}, "needs a base_url, or hosts to allow"),
        ({"base_url": "api.example"}, "base_url: got 'api.example', expected a URL that begins with http"),
        ({"base_url": "http://api.example/?x=1"}, "has a query"),
        ({"base_url": "http://127.0.0.1:80"}, "loopback.*Pass allow_private=True"),
        ({"base_url": "http://169.254.169.254", "allow_private": True}, "metadata"),
        ({"allow": ["*"], "allow_private": True}, "named one by one, not for \\*"),
        ({"allow": ["*.a.example"], "allow_private": True}, "not for \\*.a.example"),
        ({"allow": "localhost"}, "takes a list of hosts, got the text 'localhost'"),
        ({"base_url": "http://a.example", "deadline": 0}, "above 0"),
        ({"base_url": "http://a.example", "retries": -1}, "at least 0"),
    ],
)
def test_arguments_that_cannot_work_are_the_authors_mistake(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(EnvError, match=told):
        HttpClient(**arguments)


@pytest.mark.parametrize("name", ["Host", "content-length", "Transfer-Encoding", "Cookie", "X Y", "X:", "", "X\r\nY"])
async def test_headers_that_change_the_message_are_refused(service: Service, name: str) -> None:
    with pytest.raises(EnvError, match="cannot be given"):
        await client_of(service).request("GET", "/", headers={name: "x"})
    assert service.hits == []


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\x00", "é", "\ud800"])
async def test_a_header_cannot_smuggle_another(service: Service, value: str) -> None:
    with pytest.raises(ToolError, match="printable ASCII"):
        await client_of(service).request("GET", "/", headers={"X-A": value})
    assert service.hits == []


async def test_an_unknown_method_is_the_authors_mistake(service: Service) -> None:
    with pytest.raises(EnvError, match="got the method 'get', expected one of DELETE, GET"):
        await client_of(service).request("get", "/")


def fast() -> random.Random:
    """Return a generator of pauses near 0."""

    class Low(random.Random):
        def uniform(self, a: float, b: float) -> float:
            return a + (b - a) / 100

    return Low()
