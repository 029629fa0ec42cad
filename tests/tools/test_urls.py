from __future__ import annotations

import socket
from urllib.parse import urlsplit

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from yarl import URL

from agentgrpo.errors import EnvError
from agentgrpo.tools.addresses import read_address
from agentgrpo.tools.urls import BadUrl, Url, read_redirect, read_rules, read_url

EXAMPLES = 400
# Pieces from which a URL, or nearly one, can be put together.
PIECES = (
    *(
        "http",
        "https",
        "HTTP",
        "ftp",
        ":",
        "//",
        "/",
        "\\",
        "@",
        "#",
        "?",
        "&",
        "=",
        ".",
        "..",
        "%",
        "%2e",
        "%00",
        "[",
        "]",
    ),
    *(
        "127.0.0.1",
        "0x7f",
        "017",
        "2130706433",
        "localhost",
        "a.example",
        "::1",
        "80",
        "443",
        "65536",
        " ",
        "\t",
        "\r\n",
    ),
    *(
        "\u3002",
        "\uff11",
        "\u00df",
        "\u200b",
        "\ud800",
        "e",
        "1",
        "0",
        "-",
        "_",
        "*",
        "é",
        "\x7f",
        "user:pass",
        "xn--a",
    ),
)
TEXTS = st.lists(st.sampled_from(PIECES), max_size=14).map("".join)
URLS = TEXTS | TEXTS.map("http://{}".format) | st.text(max_size=60) | st.text(max_size=60).map("https://{}".format)


@settings(max_examples=EXAMPLES, deadline=None)
@given(URLS)
@example("http://[::1]:8080/a?b#c")
@example("https://a.example:65536/")
@example("http://a.example/%zz/../%2e%2e")
def test_what_is_accepted_is_read_the_same_by_every_reader(text: str) -> None:
    try:
        url = read_url(text)
    except BadUrl as error:
        assert str(error).isprintable()
        return
    written = str(url)
    assert read_url(written) == url
    assert written.isascii() and written.isprintable() and " " not in written and "\\" not in written
    for reader in (urlsplit(written), URL(written, encoded=True)):
        assert (reader.scheme, reader.port or url.port) == (url.scheme, url.port)
        assert (reader.raw_host if isinstance(reader, URL) else reader.hostname) == url.host
    sent = URL(written, encoded=True)
    assert (sent.raw_path, sent.raw_query_string) == (url.path, url.query)
    assert sent.host  # decodes punycode, and aiohttp asks for it
    assert sent.user is None and sent.password is None and not sent.fragment
    assert not any(part in (".", "..") for part in url.path.split("/"))
    if read_address(url.host) is None:  # then the operating system must not take it for an address either
        with pytest.raises(OSError):
            socket.inet_aton(url.host)


@settings(max_examples=EXAMPLES, deadline=None)
@given(URLS, st.sampled_from(["http://a.example/x/y?z", "https://b.example:8443/", "http://[2606::1]/p"]))
def test_a_redirect_leads_to_a_url_or_nowhere(location: str, start: str) -> None:
    base = read_url(start)
    try:
        url = read_redirect(base, location)
    except BadUrl:
        return
    assert read_url(str(url)) == url
    if not location.startswith("//") and ":" not in location:
        assert url.origin == base.origin


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://a.example", Url(scheme="http", host="a.example", port=80)),
        ("HTTPS://A.Example:444/B?c=d#e", Url(scheme="https", host="a.example", port=444, path="/B", query="c=d")),
        ("http://[2606:0::1]/", Url(scheme="http", host="2606::1", port=80)),
        ("http://1.1.1.1:8080/é?ü", Url(scheme="http", host="1.1.1.1", port=8080, path="/%C3%A9", query="%C3%BC")),
        ("http://a.example/%2F%zz", Url(scheme="http", host="a.example", port=80, path="/%2F%25zz")),
    ],
)
def test_a_url_has_one_form(text: str, url: Url) -> None:
    assert read_url(text) == url


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a.example/x", "begins with http:// or https://"),
        ("ftp://a.example/", "begins with http:// or https://"),
        ("http://user:secret@a.example/", "a user or password"),
        ("http://a.example:0/", "a port from 1 to 65535"),
        ("http://a.example:65536/", "port 65536, expected one from 1 to 65535"),
        ("http://0x7f.1/", "four decimal numbers"),
        ("http://a..example/", "no host name"),
        ("http://[::1%25lo]/", "expected a plain host"),
        ("http://[:::]/", "no IPv6 address"),
        ("http://ex\u00e4mple/", "plain host in ASCII"),
        ("http://a.example/a/%2E%2e/b", "a . or .. in it"),
        ("http://a.example//b", "begins with one slash"),
        ("http://a.example/a b", "U+0020"),
        ("http://a.example/" + "x" * 5000, "at most 4096"),
    ],
)
def test_a_refusal_says_what_is_wrong(text: str, told: str) -> None:
    with pytest.raises(BadUrl) as error:
        read_url(text)
    assert told in str(error.value)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("entry", "url", "is_allowed"),
    [
        ("a.example", "http://a.example/", True),
        ("a.example", "https://A.example/", True),
        ("a.example", "http://a.example:8080/", False),
        ("a.example", "http://b.a.example/", False),
        ("a.example:8080", "http://a.example:8080/", True),
        ("a.example:8080", "http://a.example/", False),
        ("*.a.example", "http://b.c.a.example/", True),
        ("*.a.example", "http://a.example/", False),
        ("*.a.example", "http://ba.example/", False),
        ("*", "https://any.example/", True),
        ("*", "https://any.example:8443/", False),
        ("*:8443", "https://any.example:8443/", True),
        ("[2606::1]:81", "http://[2606:0:0::1]:81/", True),
    ],
)
def test_rules_allow_hosts_and_ports(entry: str, url: str, is_allowed: bool) -> None:
    (rule,) = read_rules([entry])
    assert rule.allows(read_url(url)) is is_allowed
    assert read_rules([str(rule)]) == (rule,)
    assert rule.is_open is entry.startswith("*")


@pytest.mark.parametrize(
    "entry", ["", "http://a.example", "a.example/x", "*a.example", "a.*", "**", "*.1", "a.example:x"]
)
def test_a_rule_that_is_none_is_the_authors_mistake(entry: str) -> None:
    with pytest.raises(EnvError, match="allow has"):
        read_rules([entry])
