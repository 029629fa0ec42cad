"""What a client may talk to: its own service, and hosts from an allow-list.

It checks what can be seen in a URL. What a name resolves to, the resolver checks when a connection is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentgrpo.errors import EnvError, ToolError
from agentgrpo.tooling import one_line
from agentgrpo.tools.addresses import refusal
from agentgrpo.tools.urls import BadUrl, HostRule, Url, read_rules, read_url


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """The service paths belong to, and every rule, the narrowest first."""

    base: Url | None
    rules: tuple[HostRule, ...]
    allow_private: bool

    def target(self, text: str) -> Url:
        """Return the URL of a path below the service, or of a whole URL.

        Raises:
            ToolError: it is neither.
        """
        try:
            if self.base is None or not text.startswith("/"):
                return read_url(text)
            return read_url(self.base.origin + self.base.path.rstrip("/") + text)
        except BadUrl as error:
            hint = "" if self.base is None else "; a path begins with one slash"
            raise ToolError(f"{error}{hint}") from error

    def rule(self, url: Url) -> HostRule:
        """Return the rule that allows a URL.

        Raises:
            ToolError: none does, or its host is an address that must not be reached.
        """
        rule = next((rule for rule in self.rules if rule.allows(url)), None)
        if rule is None:
            hosts = ", ".join(map(str, self.rules))
            raise ToolError(f"{one_line(url.origin, 100)} may not be requested; allowed are {hosts}")
        reason = None if url.address is None else refusal(url.address, allow_private=self.allow_private)
        if reason is not None:
            raise ToolError(f"{url.origin} is not requested from here: {reason}")
        return rule

    def is_own(self, url: Url) -> bool:
        """Return whether a URL is of the service itself: credentials go nowhere else."""
        return self.base is not None and url.origin == self.base.origin


def read_reach(base_url: str | None, allow: Sequence[str], *, allow_private: bool) -> Reach:
    """Return what a client's arguments allow.

    Raises:
        EnvError: they allow nothing, or more than they should.
    """
    if isinstance(allow, str):
        raise EnvError(f"allow takes a list of hosts, got the text {allow!r}: write [{allow!r}]")
    base = None if base_url is None else _read_base(base_url, allow_private)
    own = () if base is None else (HostRule(host=base.host, port=base.port),)
    rules = (*own, *sorted(read_rules(allow), key=lambda rule: rule.is_open))
    if not rules:
        raise EnvError("HttpClient needs a base_url, or hosts to allow: allow=['api.example.org']")
    wide = next((rule for rule in rules if rule.is_open), None)
    if allow_private and wide is not None:
        raise EnvError(f"allow_private is for hosts named one by one, not for {wide}: a model would choose the address")
    return Reach(base=base, rules=rules, allow_private=allow_private)


def _read_base(base_url: str, allow_private: bool) -> Url:
    try:
        base = read_url(base_url)
    except BadUrl as error:
        raise EnvError(f"base_url: {error}") from error
    if base.query:
        raise EnvError(f"base_url {base} has a query; expected only a path, to which others are appended")
    reason = None if base.address is None else refusal(base.address, allow_private=allow_private)
    if reason is not None:
        raise EnvError(f"base_url {base}: {reason}. Pass allow_private=True if it is a service of your own")
    return base
