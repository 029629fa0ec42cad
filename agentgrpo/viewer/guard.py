"""Who may ask: the pages of this server in a browser of this machine, and nobody else.

A page from elsewhere can make a browser send requests here (CSRF), and a name that resolves to this machine can make
them look local (DNS rebinding). So the Host must be a loopback name, an Origin must be our own, and what changes
anything needs a token that only our page was given. It knows nothing of what is asked.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from aiohttp import web

TOKEN_HEADER = "X-Agentgrpo-Token"
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
SAFE_METHODS = ("GET", "HEAD")

# Trusted types: not even a mistake of ours turns text into HTML.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Guard:
    """Holds the token of one server."""

    def __init__(self) -> None:
        self.token = secrets.token_urlsafe(24)

    def refusal(self, method: str, headers: dict[str, str]) -> str | None:
        """Return why a request is refused, None when it may pass.

        Args:
            method: Of the request.
            headers: Its headers, names in lower case.
        """
        host = headers.get("host", "")
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if name.lower() not in LOOPBACK:
            return f"the Host '{host[:80]}' is not this machine: open http://127.0.0.1 and the port of `agentgrpo view`"
        origin = headers.get("origin")
        if origin is not None and (urlsplit(origin).netloc != host or urlsplit(origin).scheme != "http"):
            return f"a page of '{origin[:80]}' asked: only pages of this server may"
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            return "a page of another site asked: only pages of this server may"
        if method in SAFE_METHODS:
            return None
        if origin is None:
            return "what changes something must say its Origin, as a browser does"
        if not secrets.compare_digest(headers.get(TOKEN_HEADER.lower(), "").encode(), self.token.encode()):
            return "the token is missing or of another server: load the page again"
        return None


GUARD = web.AppKey("guard", Guard)


@web.middleware
async def _guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
    headers = {name.lower(): value for name, value in request.headers.items()}
    reason = request.app[GUARD].refusal(request.method, headers)
    if reason is not None:
        return web.json_response({"error": reason}, status=403)
    return await handler(request)


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)


def install(app: web.Application) -> Guard:
    """Let an application answer only those who may ask, with headers that keep the page to itself; return the guard."""
    guard = app[GUARD] = Guard()
    app.middlewares.insert(0, _guarded)
    app.on_response_prepare.append(_add_headers)
    return guard
