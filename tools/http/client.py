"""The HTTP client of tools: allowed hosts only, every hop checked, deadlines, a size cap, retries of what is safe.

It knows no environments and no episodes. A client holds no connections: `sessions` does, one set per event loop, so
that all episodes of a rollout share them. Cookies are not kept, so nothing passes from one episode to another.

Whose mistake it is decides what is raised. What was asked for is refused, or answered with 4xx: `ToolError`, which the
model reads. The service is down, too slow, overloaded (429) or refuses our credentials (401): `ToolFailure`, and the
episode is not scored. Where the model chose the host (`*` in the allow-list), a dead host is its choice: `ToolError`.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from http import HTTPStatus
from typing import NoReturn

import aiohttp
from aiohttp.abc import AbstractResolver
from tenacity import RetryCallState
from yarl import URL

from agentgrpo.errors import EnvError, ToolError, ToolFailure, first_line
from agentgrpo.tooling import one_line, wait_on_tool_loop
from agentgrpo.tools.http.answer import Answer, BrokenBody, TooLarge, read_body
from agentgrpo.tools.http.auth import Auth
from agentgrpo.tools.http.order import (
    IDEMPOTENT,
    REDIRECTS,
    Order,
    Query,
    checked_headers,
    checked_method,
    encoded,
    with_query,
)
from agentgrpo.tools.http.reach import read_reach
from agentgrpo.tools.http.resolver import AddressRefused
from agentgrpo.tools.http.retries import Later, retry_after, retrying
from agentgrpo.tools.http.sessions import CONNECT_SECONDS, session_for
from agentgrpo.tools.urls import BadUrl, read_redirect
from agentgrpo.types import Json

MAX_REDIRECTS = 5
_GRACE = 1.0
_QUOTED = 200  # characters of an error's body
_LATER = {408, 429}
# No total: aiohttp's own swallows a cancellation that comes in the same turn of the event loop (it uncancels twice).
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)


class RefusedRequest(ToolError):
    """A service answered with a status that is no success; `answer` holds it."""

    def __init__(self, told: str, answer: Answer) -> None:
        super().__init__(told)
        self.answer = answer


class HttpClient:
    """Requests what tools ask for.

    Args:
        base_url: Where paths begin, such as "https://api.example.org/v2"; its host is allowed on its port.
        allow: Hosts that may be requested besides: "host" (on the scheme's own port), "host:port", "*.domain", or "*"
            for every public host.
        allow_private: Whether the named hosts may have loopback or private addresses: your own service, a test.
        auth: Credential that goes to `base_url`'s origin and nowhere else.
        deadline: Seconds of a whole call, repetitions, pauses and redirects included.
        attempt_seconds: Seconds of one request; what a redirect asks for is a request of its own.
        max_bytes: Of an answer, decompressed.
        retries: How often a call is repeated, at most.
        resolver: Resolves names; None: the operating system. What it says is checked in any case.
        rng: Draws the pauses between attempts; None: a generator of its own.

    Raises:
        EnvError: an argument cannot be used; the message says how to mend it.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        allow: Sequence[str] = (),
        allow_private: bool = False,
        auth: Auth | None = None,
        deadline: float = 20.0,
        attempt_seconds: float = 10.0,
        max_bytes: int = 1 << 20,
        retries: int = 3,
        resolver: AbstractResolver | None = None,
        rng: random.Random | None = None,
    ) -> None:
        if deadline <= 0 or attempt_seconds <= 0 or max_bytes <= 0 or retries < 0:
            raise EnvError(
                "HttpClient needs deadline, attempt_seconds and max_bytes above 0 and retries of at least 0, got "
                f"{deadline}, {attempt_seconds}, {max_bytes} and {retries}"
            )
        self.reach = read_reach(base_url, allow, allow_private=allow_private)
        if auth is not None and self.reach.base is None:
            raise EnvError("auth needs a base_url: a credential goes to one service only")
        self.auth, self.deadline, self.max_bytes, self.retries = auth, deadline, max_bytes, retries
        self.repeated: Counter[str] = Counter()  # attempts that were repeated, by what had gone wrong
        self._rng = rng or random.Random()
        self._resolver = resolver
        self._attempt_seconds = attempt_seconds

    async def request(
        self,
        method: str,
        target: str,
        *,
        query: Query = (),
        json: Json = None,
        headers: Mapping[str, str] | None = None,
        idempotent: bool | None = None,
    ) -> Answer:
        """Send a request and return the answer, whose status is a success (2xx).

        Args:
            method: GET, HEAD, OPTIONS, PUT, DELETE, POST or PATCH.
            target: A path that is appended to `base_url`, or a whole URL.
            query: Added to the target's own.
            json: Sent as the body, unless None.
            headers: Added to the client's own; they do not follow a redirect to another origin.
            idempotent: Whether it may be repeated although it may have had its effect; None: what the method says.

        Raises:
            ToolError: the request is refused: by us, or by the service (then it is a `RefusedRequest`).
            ToolFailure: the service is down, too slow or overloaded, or does not take our credentials.
        """
        url = with_query(self.reach.target(target), query)
        order = Order(
            method=checked_method(method),
            url=url,
            rule=self.reach.rule(url),
            headers=checked_headers(headers or {}, reserved=self.auth.header.lower() if self.auth else ""),
            body=encoded(json),
        )
        hops = [order]
        try:
            async with asyncio.timeout(self.deadline):
                return await self._repeat(hops, method in IDEMPOTENT if idempotent is None else idempotent)
        except TimeoutError as error:
            self._down(hops[-1], f"no answer within {self.deadline:g} s", error)

    def ask(
        self,
        method: str,
        target: str,
        *,
        query: Query = (),
        json: Json = None,
        headers: Mapping[str, str] | None = None,
        idempotent: bool | None = None,
    ) -> Answer:
        """Do what `request` does, and block: for `reset_task` and `reward`, which are not async."""
        asked = self.request(method, target, query=query, json=json, headers=headers, idempotent=idempotent)
        answer: Answer = wait_on_tool_loop(asked, self.deadline + _GRACE)
        return answer

    async def _repeat(self, hops: list[Order], is_idempotent: bool) -> Answer:
        attempts = 0
        loop = retrying(
            repeats=self.retries,
            seconds=self.deadline,
            is_idempotent=is_idempotent,
            rng=self._rng,
            before_pause=self._count,
        )
        try:
            async for attempt in loop:
                with attempt:
                    attempts += 1
                    del hops[1:]
                    try:
                        return await self._attempt(hops)
                    except Later as error:
                        error.is_safe = error.is_safe and len(hops) == 1  # earlier hops have had their effect
                        raise
        except Later as error:
            wanted = f", and wants {error.seconds:g} s before the next" if error.seconds else ""
            self._down(hops[-1], f"{error}; asked {attempts} times{wanted}", error)
        raise AssertionError("the loop ends by a return or an exception")

    def _count(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        if isinstance(error, Later):
            self.repeated[error.kind] += 1

    def _down(self, order: Order, told: str, error: Exception) -> NoReturn:
        """Raise what a dead service means: it is ours to mend, unless the model chose the host."""
        told = self._hide(one_line(f"{order}: {told}", 600))
        raise (ToolError if order.rule.is_open else ToolFailure)(told) from error

    async def _attempt(self, hops: list[Order]) -> Answer:
        """Send the last of the hops; each redirect that is followed is appended to them."""
        for _ in range(MAX_REDIRECTS + 1):
            answer = await self._send(hops[-1])
            if answer.status not in REDIRECTS or "location" not in answer.headers:
                return self._judged(hops[-1], answer)
            hops.append(self._redirected(hops[-1], answer))
        raise ToolError(f"{hops[0].url.origin} redirected more than {MAX_REDIRECTS} times")

    async def _send(self, order: Order) -> Answer:
        session = await session_for(self._resolver, allow_private=self.reach.allow_private)
        try:
            async with (
                asyncio.timeout(self._attempt_seconds),
                session.request(
                    order.method,
                    URL(str(order.url), encoded=True),
                    data=order.body,
                    headers=self._headers(order),
                    timeout=_TIMEOUT,
                    allow_redirects=False,
                ) as response,
            ):
                body = await self._read(response)
                headers = {name.lower(): value for name, value in response.headers.items()}
                is_open = order.rule.is_open
                return self._without_secret(Answer(status=response.status, headers=headers, body=body, is_open=is_open))
        except AddressRefused as error:
            if order.rule.is_open:
                raise ToolError(str(error)) from error
            fix = "" if self.reach.allow_private else "; allow_private=True lets named hosts have private addresses"
            raise ToolFailure(f"{error}{fix}") from error
        except (aiohttp.ClientError, OSError, BrokenBody) as error:
            raise _later(error) from error

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        try:
            return await read_body(response, self.max_bytes)
        except TooLarge as error:
            response.close()
            raise ToolError(f"the answer has more than {self.max_bytes} bytes; ask for less") from error

    def _headers(self, order: Order) -> dict[str, str]:
        own = {} if order.body is None else {"Content-Type": "application/json"}
        if self.auth is not None and self.reach.is_own(order.url):
            own[self.auth.header] = self.auth.value()
        return {**order.headers, **own}

    def _judged(self, order: Order, answer: Answer) -> Answer:
        """Return an answer that is a success, or raise what its status means."""
        status = answer.status
        if 200 <= status < 300:
            return answer
        told = f"{status} {_phrase(status)}: {one_line(answer.text, _QUOTED)}".rstrip(": ")
        if status in _LATER or status >= 500:
            seconds = retry_after(answer.headers.get("retry-after", ""))
            raise Later(f"the service answered {told}", kind=str(status), seconds=seconds, is_safe=status == 429)
        if status == 401 and self.auth is not None and self.reach.is_own(order.url):
            raise ToolFailure(f"{order.url.origin} does not take the credential in ${self.auth.variable}: {told}")
        raise RefusedRequest(told, answer)

    def _redirected(self, order: Order, answer: Answer) -> Order:
        """Return the request a redirect asks for, checked as the first one was."""
        try:
            url = read_redirect(order.url, answer.headers["location"])
        except BadUrl as error:
            raise ToolError(f"{order.url.origin} redirects to what is not requested: {error}") from error
        return order.redirected(answer.status, url, self.reach.rule(url))

    def _hide(self, text: str) -> str:
        return text if self.auth is None else self.auth.hide(text)

    def _without_secret(self, answer: Answer) -> Answer:
        if self.auth is None:
            return answer
        headers = {name: self._hide(value) for name, value in answer.headers.items()}
        # Latin-1 maps every byte to a character and back; a secret is ASCII.
        body = self._hide(answer.body.decode("latin-1")).encode("latin-1")
        return replace(answer, headers=headers, body=body)


def _later(error: Exception) -> Later:
    """Return what went wrong with an attempt, and whether it can have had an effect."""
    if isinstance(error, aiohttp.ClientSSLError):
        return Later(f"no secure connection: {first_line(error)}", kind="tls", can_help=False)
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        return Later(f"no connection: {first_line(error)}", kind="connection", is_safe=True)
    if isinstance(error, TimeoutError):
        return Later("no answer in time", kind="timeout")
    if isinstance(error, BrokenBody):
        return Later(str(error), kind="broken answer")
    return Later(f"the connection broke: {first_line(error)}", kind="connection lost")


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
