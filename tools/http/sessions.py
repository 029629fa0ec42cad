"""Sessions: one per event loop and policy. A connection belongs to the loop it was opened on, and is closed with it.

All clients of a loop share them, so a client may be made per service or per environment alike: async tools of all
episodes run on one loop and reuse connections. What differs between clients (hosts, credentials, deadlines) belongs to
a request; a session keeps nothing between requests, no cookies either.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

import aiohttp
from aiohttp.abc import AbstractResolver
from aiohttp.resolver import ThreadedResolver

from agentgrpo.tools.http.answer import ENCODINGS
from agentgrpo.tools.http.resolver import CheckedResolver

CONNECT_SECONDS = 5.0
KEEPALIVE_SECONDS = 2.0  # shorter than most servers': they do not hang up just when a POST is on its way
_EXIT_SECONDS = 1.0
_Holder: TypeAlias = AsyncGenerator[aiohttp.ClientSession, None]
_Policy: TypeAlias = tuple[AbstractResolver | None, bool]


@dataclass(slots=True)
class _Held:
    """What is open on one loop."""

    sessions: dict[_Policy, tuple[_Holder, aiohttp.ClientSession]] = field(default_factory=dict)
    at_exit: Callable[[], None] | None = None


_held: dict[asyncio.AbstractEventLoop, _Held] = {}


async def session_for(resolver: AbstractResolver | None, *, allow_private: bool) -> aiohttp.ClientSession:
    """Return the running loop's session for a policy.

    Args:
        resolver: Resolves names; None: the operating system. Its answers are checked.
        allow_private: Passed to `addresses.refusal`.
    """
    loop = asyncio.get_running_loop()
    held = _held.get(loop) or _hold_loop(loop)
    policy = (resolver, allow_private)
    found = held.sessions.get(policy)
    if found is None or found[1].closed:
        holder = _hold(*policy)
        found = held.sessions[policy] = (holder, await anext(holder))
    return found[1]


def _hold_loop(loop: asyncio.AbstractEventLoop) -> _Held:
    for other in list(_held):
        if other.is_closed() and (gone := _held.pop(other, None)) is not None and gone.at_exit is not None:
            atexit.unregister(gone.at_exit)
    held = _held[loop] = _Held()
    # A loop of the main thread ends before the program does; that of a background thread has to be visited at exit.
    if threading.current_thread() is not threading.main_thread():
        held.at_exit = partial(_close_held, loop, held)
        atexit.register(held.at_exit)
    return held


async def _hold(resolver: AbstractResolver | None, allow_private: bool) -> _Holder:
    """Keep a session open. A generator, because a loop that ends finishes the generators that began on it."""
    checked = CheckedResolver(resolver or ThreadedResolver(), allow_private=allow_private)
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(resolver=checked, use_dns_cache=False, keepalive_timeout=KEEPALIVE_SECONDS),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": "agentgrpo", "Accept": "application/json, */*;q=0.5", "Accept-Encoding": ENCODINGS},
        auto_decompress=False,  # aiohttp would inflate a whole chunk before the cap could be looked at
        trust_env=False,  # a proxy of the environment would resolve names for us
    )
    try:
        yield session
    finally:
        await session.close()


def _close_held(loop: asyncio.AbstractEventLoop, held: _Held) -> None:
    for holder, _ in list(held.sessions.values()):
        if loop.is_running():
            closing = asyncio.run_coroutine_threadsafe(holder.aclose(), loop)
            with contextlib.suppress(TimeoutError):  # then the operating system closes its connections
                closing.result(_EXIT_SECONDS)
