from __future__ import annotations

import contextlib
import gzip
import tracemalloc
import zlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from agentgrpo.errors import ToolError, ToolFailure
from agentgrpo.tools.http.answer import Answer, BrokenBody, TooLarge, _inflate
from agentgrpo.tools.http.client import HttpClient
from tests.tools.http.network import Handler, Service

MB = 1 << 20


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    async with Service() as service:
        yield service


def sends(body: bytes, encoding: str = "", content_type: str = "text/plain") -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        headers = {"Content-Type": content_type} | ({"Content-Encoding": encoding} if encoding else {})
        return web.Response(body=body, headers=headers)

    return handler


async def fetch(service: Service, handler: Handler, **options: Any) -> Answer:
    service.routes["/x"] = handler
    return await HttpClient(service.url, allow_private=True, retries=0, **options).request("GET", "/x")


def bomb(size: int) -> bytes:
    """Return zeros compressed a thousand to one, without having them in memory."""
    packer = zlib.compressobj(9, wbits=31)
    return b"".join(packer.compress(bytes(MB)) for _ in range(size // MB)) + packer.flush()


@pytest.mark.parametrize("size", [0, 1, 99, 100])
async def test_an_answer_up_to_the_cap_is_read(service: Service, size: int) -> None:
    assert (await fetch(service, sends(b"x" * size), max_bytes=100)).body == b"x" * size
    assert (await fetch(service, sends(gzip.compress(b"x" * size, mtime=0), "gzip"), max_bytes=100)).body == b"x" * size


@pytest.mark.parametrize("encoding", ["", "gzip"])
async def test_a_larger_answer_is_an_observation(service: Service, encoding: str) -> None:
    body = gzip.compress(b"x" * 101, mtime=0) if encoding else b"x" * 101
    with pytest.raises(ToolError, match="more than 100 bytes; ask for less"):
        await fetch(service, sends(body, encoding), max_bytes=100)


async def test_a_bomb_is_not_inflated_beyond_the_cap(service: Service) -> None:
    body = bomb(64 * MB)
    assert len(body) < MB
    handler = sends(body, "gzip")
    tracemalloc.start()
    try:
        with pytest.raises(ToolError, match="more than 1048576 bytes"):
            await fetch(service, handler)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * MB


async def test_a_stream_without_an_end_is_left_at_the_cap(service: Service) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(bytes(1 << 16))

    with pytest.raises(ToolError, match="more than 1000000 bytes"):
        await fetch(service, endless, max_bytes=1_000_000)


@pytest.mark.parametrize(
    ("body", "encoding", "told"),
    [
        (gzip.compress(b"x" * 1000, mtime=0)[:-5], "gzip", "cut off"),
        (b"no gzip", "gzip", "cannot be decompressed"),
        (gzip.compress(b"x", mtime=0) + b"garbage", "gzip", "cannot be decompressed"),
        (b"x", "br", "the answer's encoding is 'br', asked for was gzip"),
        (b"x", "gzip, gzip", "the answer's encoding"),
    ],
)
async def test_an_answer_that_cannot_be_decompressed_is_the_services_fault(
    service: Service, body: bytes, encoding: str, told: str
) -> None:
    with pytest.raises(ToolFailure, match=told):
        await fetch(service, sends(body, encoding))


async def test_only_what_can_be_decompressed_is_asked_for(service: Service) -> None:
    await fetch(service, sends(b""))
    assert service.hits[0].headers["Accept-Encoding"] == "gzip"


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.binary(max_size=300), min_size=1, max_size=4),
    st.integers(1, 40),
    st.integers(0, 1200),
    st.sampled_from([31, 15]),
)
async def test_members_cut_anywhere_come_out_whole_or_are_too_large(
    parts: list[bytes], cut: int, limit: int, wbits: int
) -> None:
    parts = parts if wbits == 31 else parts[:1]
    packed = b"".join(zlib.compress(part, wbits=wbits) for part in parts)
    plain = b"".join(parts)

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(packed), cut):
            yield packed[start : start + cut]

    if len(plain) > limit or len(packed) > limit:
        with pytest.raises(TooLarge):
            await _inflate(chunks(), limit)
    else:
        assert await _inflate(chunks(), limit) == plain


@settings(deadline=None)
@given(st.binary(max_size=200))
async def test_any_bytes_are_inflated_or_refused(data: bytes) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield data

    with contextlib.suppress(BrokenBody, TooLarge):
        assert len(await _inflate(chunks(), 1000)) <= 1000


def answer(body: bytes, content_type: str) -> Answer:
    return Answer(status=200, headers={"content-type": content_type}, body=body)


@pytest.mark.parametrize(
    ("body", "content_type", "readable"),
    [
        (b'{"a": 1}', "application/json", {"a": 1}),
        (b'{"a": 1}', "application/problem+json; charset=utf-8", {"a": 1}),
        (b'{"a": 1}', "text/plain", '{"a": 1}'),
        (b"", "application/json", None),
        ("é".encode("latin-1"), "text/plain; charset=latin-1", "é"),
        ("日本".encode("shift_jis"), 'text/plain; x=y; Charset="Shift_JIS"', "日本"),
        ("é".encode(), "text/html; charset=nonsense", "é"),
        ("é".encode(), "text/html; charset=\udcff", "é"),
        (b"\\x41", "text/plain; charset=unicode_escape", "\\x41"),
        (b"a" * 100_000, "text/plain; charset=punycode", "a" * 100_000),
        (b"\xff", "text/plain", "\ufffd"),
        (b"\x89PNG\0", "image/png", "[5 bytes of image/png]"),
        (b"a\0b", "", "[3 bytes of no stated type]"),
        (b"plain", "", "plain"),
    ],
)
def test_an_answer_becomes_what_a_model_can_read(body: bytes, content_type: str, readable: object) -> None:
    assert answer(body, content_type).readable == readable


@pytest.mark.parametrize("body", [b"<html>", b"{", b"\xff", b"[" * 100_000])
def test_a_service_that_says_json_and_sends_something_else_is_broken(body: bytes) -> None:
    with pytest.raises(ToolFailure, match="answered 200 with what is not JSON"):
        answer(body, "application/json").json()
