"""Name resolution with a check: a connection goes to exactly the addresses that were checked, and to no other.

It knows neither URLs nor requests. A name is resolved once per connection; a second look-up, which could answer
differently (DNS rebinding), does not happen.
"""

from __future__ import annotations

import socket

from aiohttp.abc import AbstractResolver, ResolveResult

from agentgrpo.tools.addresses import Address, read_address, refusal


class AddressRefused(Exception):
    """A name leads to an address that must not be reached."""


class CheckedResolver(AbstractResolver):
    """Passes on what another resolver found, once every address of it was checked: one bad address refuses the name.

    Args:
        inner: Who resolves.
        allow_private: Passed to `addresses.refusal`.
    """

    def __init__(self, inner: AbstractResolver, *, allow_private: bool) -> None:
        self._inner, self._allow_private = inner, allow_private

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of a name, as numbers.

        Raises:
            AddressRefused: one of them must not be reached.
            OSError: there are none.
        """
        found = await self._inner.resolve(host, port, family)
        if not found:
            raise OSError(f"the name {host} has no address")
        return [_result(host, port, self._check(host, result["host"])) for result in found]

    def _check(self, host: str, text: str) -> Address:
        address = read_address(text)
        if address is None:
            raise AddressRefused(f"the name {host} leads to {text!r}, which is no plain address")
        reason = refusal(address, allow_private=self._allow_private)
        if reason is not None:
            raise AddressRefused(f"the name {host} leads to an address that is not reached from here: {reason}")
        return address

    async def close(self) -> None:
        """Do nothing: the inner resolver belongs to whoever made it."""


def _result(host: str, port: int, address: Address) -> ResolveResult:
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    return ResolveResult(hostname=host, host=str(address), port=port, family=family, proto=0, flags=flags)
