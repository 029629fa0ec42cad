"""URLs read strictly, so that what is checked is what is requested, and the list of hosts a client may talk to.

Everything two programs could read differently is refused rather than repaired. It resolves no names: whether the
address behind a host may be reached, `addresses` says.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote, urljoin

from yarl import URL

from agentgrpo.errors import EnvError
from agentgrpo.tooling import one_line
from agentgrpo.tools.addresses import Address, read_address

MAX_LENGTH = 4096
DEFAULT_PORTS = {"http": 80, "https": 443}
ANY_HOST = "*"
_URL = re.compile(r"(?P<scheme>[A-Za-z]+)://(?P<authority>[^/?#]*)(?P<path>[^?#]*)(?:\?(?P<query>[^#]*))?(?:#.*)?")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_AUTHORITY = re.compile(r"(?P<host>\[[0-9a-f:.]+\]|[0-9a-z_.-]+)(?::(?P<port>[1-9][0-9]{0,4}))?")
_LABEL = re.compile(r"[0-9a-z_](?:[0-9a-z_-]{0,61}[0-9a-z_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")  # what some readers take for a part of an IPv4 address
_UNSAFE = re.compile(r"[\x00-\x20\x7f-\xa0\\\ud800-\udfff\u2028\u2029]")
_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_DOTS = re.compile(r"(?:\.|%2e){1,2}", re.IGNORECASE)
_PATH_SAFE = "/%:@!$&'()*+,;=~"
_QUERY_SAFE = _PATH_SAFE + "?"


class BadUrl(ValueError):
    """A text is no URL that anything would be requested from; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Url:
    """An http(s) URL with every part in its one standard form; `host` has no brackets."""

    scheme: str
    host: str
    port: int
    path: str = "/"
    query: str = ""

    @property
    def address(self) -> Address | None:
        """The host, if it is an IP address."""
        return read_address(self.host)

    @property
    def origin(self) -> str:
        """Scheme, host and port: where credentials may go."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}"

    def __str__(self) -> str:
        return self.origin + self.path + (f"?{self.query}" if self.query else "")


def read_url(text: str) -> Url:
    """Return the URL a text is.

    Raises:
        BadUrl: it is none, or one that two readers could understand differently.
    """
    _check_characters(text)
    match = _URL.fullmatch(text)
    scheme = match["scheme"].lower() if match else ""
    if match is None or scheme not in DEFAULT_PORTS:
        raise BadUrl(f"got {_shown(text)}, expected a URL that begins with http:// or https://")
    host, port = _read_authority(match["authority"])
    return Url(
        scheme=scheme,
        host=host,
        port=port or DEFAULT_PORTS[scheme],
        path=read_path(match["path"] or "/"),
        query=_quoted(match["query"] or "", _QUERY_SAFE),
    )


def read_redirect(url: Url, location: str) -> Url:
    """Return where a `Location` header leads from a URL.

    Raises:
        BadUrl: it leads to nothing that would be requested.
    """
    _check_characters(location)  # urljoin would drop tabs and line ends
    if _SCHEME.match(location):
        return read_url(location)
    if location.startswith("//"):
        return read_url(f"{url.scheme}:{location}")
    return read_url(urljoin(str(url), location))  # a path, so it cannot change the host


def read_path(text: str) -> str:
    """Return a path, percent-encoded where it has to be; it starts with one slash and has no dot segments.

    Raises:
        BadUrl: it does not, or has some.
    """
    _check_characters(text)
    if not text.startswith("/") or text.startswith("//"):
        raise BadUrl(f"got the path {_shown(text)}, expected one that begins with one slash")
    if any(_DOTS.fullmatch(part) for part in text.split("/")):
        raise BadUrl(f"the path {_shown(text)} has a . or .. in it; write it without")
    return _quoted(text, _PATH_SAFE)


def _read_authority(text: str) -> tuple[str, int | None]:
    """Return host and port (None: the scheme's own)."""
    match = _AUTHORITY.fullmatch(text.lower() if text.isascii() else "")
    if match is None:
        what = "a user or password" if "@" in text else f"the host {_shown(text)}"
        raise BadUrl(f"got {what}, expected a plain host in ASCII, and a port from 1 to 65535 if any")
    port = int(match["port"]) if match["port"] else None
    if port is not None and port > 65535:
        raise BadUrl(f"got port {port}, expected one from 1 to 65535")
    return _read_host(match["host"]), port


def _read_host(host: str) -> str:
    if host.startswith("["):
        address = read_address(host[1:-1])
        if address is None:
            raise BadUrl(f"{host} is no IPv6 address")
        return str(address)
    labels = host.split(".")
    if _NUMBER.fullmatch(labels[-1]):  # then every reader takes the whole for an IPv4 address, in some notation
        if read_address(host) is None:
            raise BadUrl(f"{_shown(host)} is no host; write an IPv4 address as four decimal numbers, like 192.0.2.1")
        return host
    if len(host) > 253 or not all(map(_LABEL.fullmatch, labels)):
        raise BadUrl(f"{_shown(host)} is no host name")
    if "xn--" in host:
        _check_punycode(host)
    return host


def _check_punycode(host: str) -> None:
    try:
        readable = URL.build(scheme="http", host=host).host  # aiohttp will read it this way
    except ValueError as error:
        raise BadUrl(f"{_shown(host)} is no host name: it is no valid punycode") from error
    if not readable:
        raise BadUrl(f"{_shown(host)} is no host name")


def _check_characters(text: str) -> None:
    if len(text) > MAX_LENGTH:
        raise BadUrl(f"the URL has {len(text)} characters, at most {MAX_LENGTH} are accepted")
    if (bad := _UNSAFE.search(text)) is not None:
        raise BadUrl(f"the URL holds the character U+{ord(bad[0]):04X}; percent-encode it")


def _quoted(text: str, safe: str) -> str:
    return quote(_STRAY_PERCENT.sub("%25", text), safe=safe)


def _shown(text: str) -> str:
    return repr(one_line(text, 60))


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRule:
    """Hosts a client may talk to: one, those below a domain (`suffix`), or any; on one port, or the scheme's own."""

    host: str = ""
    suffix: str = ""
    port: int | None = None

    @property
    def is_open(self) -> bool:
        """Whether whoever writes the URL chooses the host, not who wrote the rule."""
        return not self.host

    def allows(self, url: Url) -> bool:
        """Return whether a URL is of these hosts."""
        is_host = url.host == self.host if self.host else url.host.endswith(self.suffix)
        return is_host and url.port == (self.port or DEFAULT_PORTS[url.scheme])

    def __str__(self) -> str:
        name = self.host or f"*{self.suffix}"
        name = f"[{name}]" if ":" in name else name
        return f"{name}:{self.port}" if self.port else name


def read_rules(entries: Iterable[str]) -> tuple[HostRule, ...]:
    """Return the rules of an allow-list: "host", "host:port", "*.domain" (not the domain itself), "*", "*:port".

    Raises:
        EnvError: an entry is none of these.
    """
    return tuple(map(_read_rule, entries))


def _read_rule(entry: str) -> HostRule:
    is_open = entry.startswith(ANY_HOST)
    # A wildcard is read as if it were a label, then taken off.
    text = "any" + entry[1:] if is_open else entry
    try:
        host, port = _read_authority(text)
    except BadUrl as error:
        raise EnvError(
            f"allow has {entry!r}: {error}. Write a host, host:port, *.domain, or * for every public host"
        ) from error
    if not is_open:
        return HostRule(host=host, port=port)
    if host != "any" and not host.startswith("any."):
        raise EnvError(f"allow has {entry!r}; a * stands for whole names: write *.example.org, or *")
    return HostRule(suffix=host.removeprefix("any"), port=port)
