"""The client against a stub server that fails: what is repeated, what is not, and that the key stays where it is."""

from __future__ import annotations

import asyncio
import time
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentgrpo.endpoint import client
from agentgrpo.endpoint.client import Endpoint, PromptTooLong, _retry_after
from agentgrpo.endpoint.stub import FAULTS, Fault, StubEndpoint, calls, says
from agentgrpo.endpoint.wire import Reply
from agentgrpo.errors import ConfigError, EngineFailure, UserError
from agentgrpo.types import Sampling
from tests.endpoint.stalls import stalling

ASK = [{"role": "user", "content": "hello"}]
SAMPLING = Sampling(max_tokens=64, temperature=0.5)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_jitter", lambda state: 0.01)


async def ask(stub: StubEndpoint, *, seconds: float = 60.0, sampling: Sampling = SAMPLING, **options: Any) -> Reply:
    async with Endpoint(stub.url, "m", **options) as endpoint:
        return await endpoint.chat(ASK, sampling=sampling, seconds=seconds)


async def test_an_answer_comes_back_and_the_request_says_what_was_asked() -> None:
    tools = [{"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}]
    async with StubEndpoint(lambda body: calls("find", {"x": 1})) as stub, Endpoint(stub.url, "m") as endpoint:
        reply = await endpoint.chat(ASK, tools, sampling=SAMPLING)
        (request,) = stub.requests
    assert reply.message.calls[0].name == "find"
    assert request == {"model": "m", "messages": ASK, "tools": tools, "temperature": 0.5, "max_tokens": 64}


@pytest.mark.parametrize("fault", FAULTS)
async def test_what_may_pass_is_asked_again(fault: Fault) -> None:
    async with StubEndpoint(lambda body: says("yes"), faults=stalling([fault, fault], 61)) as stub:
        async with Endpoint(stub.url, "m", attempt_seconds=60) as endpoint:
            reply = await endpoint.chat(ASK, sampling=SAMPLING)
        assert (reply.message.content, len(stub.requests)) == ("yes", 3)
        assert sum(endpoint.repeated.values()) == 2


@pytest.mark.parametrize("fault", FAULTS)
async def test_what_does_not_pass_is_given_up_with_its_cause(fault: Fault) -> None:
    async with StubEndpoint(lambda body: says("yes"), faults=stalling([fault] * 9, 61)) as stub:
        async with Endpoint(stub.url, "m", retries=2, attempt_seconds=60) as endpoint:
            with pytest.raises(EngineFailure, match=r"m: .*asked 3 times"):
                await endpoint.chat(ASK, sampling=SAMPLING)
        assert len(stub.requests) == 3
        assert endpoint.repeated.total() == 2


async def test_a_servers_wish_to_be_left_alone_is_honoured() -> None:
    async with StubEndpoint(lambda body: says("yes"), faults=["429"], retry_after=0.4) as stub:
        clock = time.monotonic()
        await ask(stub)
        assert time.monotonic() - clock >= 0.4


async def test_a_wish_beyond_the_deadline_ends_it_at_once() -> None:
    async with StubEndpoint(lambda body: says("yes"), faults=["429"] * 9, retry_after=60) as stub:
        clock = time.monotonic()
        with pytest.raises(EngineFailure, match=r"429: .*slow down.*asked 1 times, and wants 60 s before"):
            await ask(stub, seconds=50.0)
        assert time.monotonic() - clock < 45


async def test_the_deadline_holds_whatever_the_server_does() -> None:
    async with StubEndpoint(lambda body: says("yes"), faults=stalling(["stall"] * 9, 40)) as stub:
        with pytest.raises(EngineFailure, match=r"no answer within 40 s, asked 1 times"):
            await ask(stub, seconds=40)


async def test_a_deadline_that_strikes_with_an_attempts_end_ends_it() -> None:
    async with StubEndpoint(lambda body: says("yes"), faults=stalling(["stall"] * 9, 60)) as stub:
        with pytest.raises(EngineFailure, match=r"no answer within 50 s, asked 1 times"):
            await ask(stub, seconds=50, attempt_seconds=40)
        assert len(stub.requests) == 1


async def test_a_request_that_is_refused_is_not_repeated() -> None:
    async with StubEndpoint(lambda body: says("yes"), faults=["refused"]) as stub:
        with pytest.raises(EngineFailure, match=r"m: the endpoint answered 400: .*no"):
            await ask(stub)
        assert len(stub.requests) == 1


async def test_a_conversation_that_does_not_fit_says_so() -> None:
    async with StubEndpoint(lambda body: says("yes"), faults=["long"]) as stub:
        with pytest.raises(PromptTooLong):
            await ask(stub)


async def test_a_wrong_key_stops_everything_and_is_shown_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "secret-of-mine")
    async with StubEndpoint(lambda body: says("yes"), key="another") as stub:
        with pytest.raises(UserError, match=r"answered 401: .*wrong key.*--api-key-env") as raised:
            await ask(stub, api_key_env="SOME_KEY")
        assert "secret-of-mine" not in str(raised.value)
        assert "***" in str(raised.value)


async def test_the_key_of_the_variable_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "secret-of-mine")
    async with StubEndpoint(lambda body: says("yes"), key="secret-of-mine") as stub:
        assert (await ask(stub, api_key_env="SOME_KEY")).message.content == "yes"


async def test_no_more_requests_are_open_than_allowed() -> None:
    async with StubEndpoint(lambda body: says("yes")) as stub, Endpoint(stub.url, "m", concurrency=3) as endpoint:
        await asyncio.gather(*(endpoint.chat(ASK, sampling=SAMPLING) for _ in range(20)))
        assert (len(stub.requests), stub.most_open) == (20, stub.most_open)
        assert stub.most_open <= 3


async def test_a_model_that_calls_its_limit_otherwise_is_asked_in_its_words() -> None:
    """Also by those whose first request was on its way already."""
    stub = StubEndpoint(lambda body: says("yes"), faults=["renamed"] * 3)
    async with stub, Endpoint(stub.url, "m") as endpoint:
        await asyncio.gather(*(endpoint.chat(ASK, sampling=SAMPLING) for _ in range(3)))
    assert [request.get("max_tokens") for request in stub.requests] == [64] * 3 + [None] * 3
    assert [request.get("max_completion_tokens") for request in stub.requests] == [None] * 3 + [64] * 3


async def test_nobody_is_there() -> None:
    async with Endpoint("http://127.0.0.1:9/v1", "m", retries=1) as endpoint:
        with pytest.raises(EngineFailure, match=r"m: .*asked 2 times"):
            await endpoint.chat(ASK, sampling=SAMPLING)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("localhost:8000", "is no URL"),
        ("ftp://x/v1", "is no URL"),
        ("", "is no URL"),
        ("https://me:pw@host/v1", "holds a user, a password or a query"),
        ("https://host/v1?key=x", "holds a user, a password or a query"),
    ],
)
def test_a_url_that_cannot_be_used_says_why(url: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as raised:
        Endpoint(url, "m")
    assert "pw" not in str(raised.value)


@pytest.mark.parametrize("url", ["http://h:1", "http://h:1/v1", "http://h:1/v1/", "http://h:1/v1/chat/completions"])
def test_a_url_may_be_short(url: str) -> None:
    assert Endpoint(url, "m").url == "http://h:1/v1/chat/completions"


def test_a_variable_that_is_not_set_is_named() -> None:
    with pytest.raises(ConfigError, match="NO_SUCH_VARIABLE: the environment variable is not set"):
        Endpoint("http://h", "m", api_key_env="NO_SUCH_VARIABLE")


def test_a_key_in_place_of_its_variable_is_not_repeated() -> None:
    with pytest.raises(ConfigError, match="takes the name of an environment variable") as raised:
        Endpoint("http://h", "m", api_key_env="sk-secret0of0mine")
    assert "secret" not in str(raised.value)


@given(st.text(max_size=20) | st.integers().map("01 Jan 2020 00:00:00 {:+}".format))
@example("01 Jan 2020 00:00:00 +999999999999999")
def test_any_retry_after_is_a_number_of_seconds(value: str) -> None:
    assert _retry_after({"Retry-After": value}) >= 0.0


def test_a_date_is_seconds_from_now() -> None:
    assert 50 < _retry_after({"Retry-After": formatdate(time.time() + 60, usegmt=True)}) <= 60
    assert _retry_after({"Retry-After": "1.5"}) == 1.5
