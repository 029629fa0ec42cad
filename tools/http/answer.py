"""What a service answered, and reading it within a size cap that counts decompressed bytes.

It does not judge: whether a status is an error, and whose, is the client's business.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

import aiohttp

from agentgrpo.errors import ToolError, ToolFailure
from agentgrpo.tooling import describe
from agentgrpo.types import Json

ENCODINGS = "gzip"  # what is asked for: half of the world means something else by "deflate"
_CHUNK = 1 << 14
_TEXTS = ("text/", "application/json", "application/xml", "application/javascript", "application/x-www-form-urlencoded")
_CHARSET = re.compile(r"charset\s*=\s*\"?([A-Za-z0-9_-]+)", re.IGNORECASE)
# Python knows more, among them some that take time square in the length, and some that execute escapes.
_CHARSETS = {"us-ascii", "iso-8859-1", "latin-1", "iso-8859-15", "windows-1252", "windows-1251", "koi8-r", "utf-16"}
_CHARSETS |= {"shift_jis", "euc-jp", "iso-2022-jp", "euc-kr", "gb2312", "gbk", "gb18030", "big5"}
_AUTOMATIC = 32 + zlib.MAX_WBITS  # zlib tells gzip and zlib headers apart


class TooLarge(Exception):
    """An answer has more bytes than the cap."""


class BrokenBody(Exception):
    """An answer's body is cut off, or not encoded as its headers say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A response that was read to its end.

    Attributes:
        status: HTTP status.
        headers: By name in lower case; of several with one name, the last.
        body: Decompressed.
        is_open: Whether whoever asked chose the host, so that what is wrong with it is for them to read.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    is_open: bool = False

    @property
    def content_type(self) -> str:
        """The media type, without parameters, in lower case; "" when the service names none."""
        return self.headers.get("content-type", "").split(";")[0].strip().lower()

    @property
    def is_json(self) -> bool:
        return self.content_type == "application/json" or self.content_type.endswith("+json")

    @property
    def text(self) -> str:
        """The body as text; what is no text becomes a note of its size and type."""
        is_text = not self.content_type or self.is_json or self.content_type.startswith(_TEXTS)
        if not is_text or b"\0" in self.body:
            return f"[{len(self.body)} bytes of {self.content_type or 'no stated type'}]"
        found = _CHARSET.search(self.headers.get("content-type", ""))
        charset = found[1].lower() if found is not None else "utf-8"
        return self.body.decode(charset if charset in _CHARSETS else "utf-8", "replace")

    def json(self) -> Json:
        """Return the body read as JSON.

        Raises:
            ToolFailure: it is none; a ToolError where the model chose the host.
        """
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as error:
            told = f"the service answered {self.status} with what is not JSON: {describe(error)}"
            raise (ToolError if self.is_open else ToolFailure)(told) from error

    @property
    def readable(self) -> Json:
        """The body as a tool returns it: JSON where it is said to be, else text; None where there is none."""
        if not self.body:
            return None
        return self.json() if self.is_json else self.text


async def read_body(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """Return the decompressed body; reading stops at the cap, compressed or not.

    Args:
        response: Of a session that does not decompress by itself.
        limit: Bytes at most.

    Raises:
        TooLarge: there are more.
        BrokenBody: it cannot be decompressed.
    """
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    chunks = response.content.iter_chunked(_CHUNK)
    if encoding in ("", "identity"):
        return await _join(chunks, limit)
    if encoding in ("gzip", "x-gzip", "deflate"):
        return await _inflate(chunks, limit)
    raise BrokenBody(f"the answer's encoding is {encoding[:40]!r}, asked for was {ENCODINGS}")


async def _join(chunks: AsyncIterator[bytes], limit: int) -> bytes:
    data = bytearray()
    async for chunk in chunks:
        data += chunk
        if len(data) > limit:
            raise TooLarge
    return bytes(data)


async def _inflate(chunks: AsyncIterator[bytes], limit: int) -> bytes:
    data, received = bytearray(), 0
    inflater = zlib.decompressobj(_AUTOMATIC)
    try:
        async for chunk in chunks:
            received += len(chunk)
            while chunk:
                if inflater.eof:  # gzip allows several members, one after the other
                    inflater = zlib.decompressobj(_AUTOMATIC)
                data += inflater.decompress(chunk, limit + 1 - len(data))
                if len(data) > limit or received > limit:
                    raise TooLarge
                chunk = inflater.unused_data
    except zlib.error as error:
        raise BrokenBody(f"the answer cannot be decompressed: {error}") from error
    if received and not inflater.eof:
        raise BrokenBody("the compressed answer was cut off")
    return bytes(data)
