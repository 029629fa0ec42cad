"""A network in one process: a real server on this machine, scripted names, and a record of every connection made.

Two addresses stand for the public internet; connecting to them leads to the server, and so does every loopback address,
so that a client without a policy does reach it. A connection to anything else is refused, once it was recorded.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeAlias

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]
PUBLIC = "public.example"
PUBLIC_ADDRESSES = ("93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946")


class Service:
    """A real server on a free local port. `routes` say what it answers; anything else is answered with "hit"."""

    def __init__(self, routes: Mapping[str, Handler] | None = None) -> None:
        self.routes = dict(routes or {})
        self.hits: list[web.Request] = []
        self.bodies: list[bytes] = []
        self.port = 0
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Service:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self.hits.append(request)
        self.bodies.append(await request.read())
        handler = self.routes.get(request.path)
        return web.Response(text="hit") if handler is None else await handler(request)


class Names(AbstractResolver):
    """Names and, for each, what successive look-ups answer (the last again and again).

    Other names are read as the operating system would read them without a network: numbers in any notation.
    """

    def __init__(self, names: Mapping[str, Sequence[Sequence[str]]]) -> None:
        self._answers: dict[str, Iterator[Sequence[str]]] = {
            name: itertools.chain(answers, itertools.repeat(answers[-1])) for name, answers in names.items()
        }
        self.lookups: Counter[str] = Counter()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        self.lookups[host] += 1
        if host in self._answers:
            return [result(host, port, address) for address in next(self._answers[host])]
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        return [result(host, port, str(info[4][0])) for info in infos]

    async def close(self) -> None:
        """Do nothing: there is nothing open."""


def result(host: str, port: int, address: str) -> ResolveResult:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)


def watch(monkeypatch: pytest.MonkeyPatch, service: Service) -> list[str]:
    """Lead every connection of the running loop to the service or nowhere; return the list of where they wanted to."""
    loop: Any = asyncio.get_running_loop()
    real, seen = loop.sock_connect, list[str]()

    async def connect(sock: socket.socket, address: Sequence[Any]) -> None:
        host = str(address[0])
        seen.append(host)
        if host not in PUBLIC_ADDRESSES and not is_loopback(host):
            raise ConnectionRefusedError(f"{host} is recorded, not reached")
        is_old = sock.family == socket.AF_INET
        await real(sock, ("127.0.0.1" if is_old else "::ffff:127.0.0.1", service.port))

    monkeypatch.setattr(loop, "sock_connect", connect)
    return seen


def is_loopback(host: str) -> bool:
    return host.startswith("127.") or host in ("0.0.0.0", "::1", "::", "::ffff:127.0.0.1", "::ffff:7f00:1")
