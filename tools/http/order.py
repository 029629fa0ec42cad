"""One request as it is sent, and what a redirect makes of it.

It does not send, and does not know which hosts are allowed: whoever makes an order has asked `reach`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias
from urllib.parse import urlencode

from agentgrpo.errors import EnvError, ToolError
from agentgrpo.tooling import one_line
from agentgrpo.tools.urls import MAX_LENGTH, HostRule, Url
from agentgrpo.types import Json

IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
METHODS = IDEMPOTENT | {"POST", "PATCH"}
REDIRECTS = frozenset({301, 302, 303, 307, 308})
# These would change who is spoken to, how, or where a message ends.
RESERVED = frozenset(
    {"host", "connection", "keep-alive", "content-length", "transfer-encoding", "te", "trailer", "upgrade", "expect"}
    | {"content-type", "content-encoding", "accept-encoding", "cookie", "proxy-authorization", "proxy-connection"}
)
Query: TypeAlias = Mapping[str, str] | Iterable[tuple[str, str]]
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[\x20-\x7e]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One request; `rule` is what allows its URL."""

    method: str
    url: Url
    rule: HostRule
    headers: Mapping[str, str] = field(default_factory=dict)  # besides the client's own
    body: bytes | None = None  # JSON

    def __str__(self) -> str:
        return f"{self.method} {self.url}"

    def redirected(self, status: int, url: Url, rule: HostRule) -> Order:
        """Return the request a redirect of this status asks for (RFC 9110, 15.4); headers stay with their origin.

        Raises:
            ToolError: what was encrypted would go on in plain text.
        """
        if self.url.scheme == "https" and url.scheme != "https":
            raise ToolError(f"{self.url.origin} redirects from https to http, which is not followed")
        headers = self.headers if url.origin == self.url.origin else {}
        moved = replace(self, url=url, rule=rule, headers=headers)
        becomes_get = status == 303 or (status in (301, 302) and self.method == "POST")
        return replace(moved, method="GET", body=None) if becomes_get and self.method != "HEAD" else moved


def checked_method(method: str) -> str:
    """Return a method that can be sent.

    Raises:
        EnvError: it cannot.
    """
    if method not in METHODS:
        raise EnvError(f"got the method {method!r}, expected one of {', '.join(sorted(METHODS))}")
    return method


def with_query(url: Url, query: Query) -> Url:
    """Return a URL with parameters after its own.

    Raises:
        ToolError: it becomes too long.
    """
    added = urlencode(query if isinstance(query, Mapping) else list(query), errors="replace")
    longer = replace(url, query="&".join(filter(None, (url.query, added))))
    if len(str(longer)) > MAX_LENGTH:
        raise ToolError(f"the URL has {len(str(longer))} characters, at most {MAX_LENGTH} are accepted")
    return longer


def checked_headers(headers: Mapping[str, str], *, reserved: str = "") -> dict[str, str]:
    """Return headers that can be sent.

    Args:
        headers: Names, which an author writes, and values, which a model may write.
        reserved: One more name that is taken, in lower case.

    Raises:
        EnvError: a name is none, or the client's own business.
        ToolError: a value cannot be sent.
    """
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name) or name.lower() in RESERVED or name.lower() == reserved:
            raise EnvError(f"the header {name!r} cannot be given: it is no name, or the client sets it itself")
        if not _HEADER_VALUE.fullmatch(value):
            raise ToolError(f"the header {name} takes printable ASCII, got {one_line(repr(value), 60)}")
    return dict(headers)


def encoded(body: Json) -> bytes | None:
    """Return a body as JSON; None where there is none."""
    return None if body is None else json.dumps(body).encode()
