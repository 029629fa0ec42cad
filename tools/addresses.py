"""Which IP addresses a tool may connect to: a program that fetches what a model asks for must not reach inside.

It knows addresses only, neither names nor URLs. The tables follow IANA's special-purpose address registries (RFC 6890)
rather than `ipaddress.is_global`, whose answers changed between patch releases of Python.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address
_Table: TypeAlias = tuple[tuple[IPv4Network | IPv6Network, str], ...]


def _table(words: dict[str, str]) -> _Table:
    return tuple((ip_network(network), meaning) for network, meaning in words.items())


_NEVER = _table(
    {
        "169.254.169.254/32": "a cloud's metadata service",
        "100.100.100.200/32": "a cloud's metadata service",
        "168.63.129.16/32": "a cloud's metadata service",
        "fd00:ec2::/32": "a cloud's metadata service",
        "fd20:ce::/32": "a cloud's metadata service",
        "fd00:c1::/32": "a cloud's metadata service",
        "fd00:42::/32": "a cloud's metadata service",
        "0.0.0.0/8": "unspecified",
        "169.254.0.0/16": "link-local",
        "192.0.0.0/24": "reserved for protocols",
        "192.0.2.0/24": "reserved for documentation",
        "192.88.99.0/24": "reserved for 6to4 relays",
        "198.18.0.0/15": "reserved for benchmarks",
        "198.51.100.0/24": "reserved for documentation",
        "203.0.113.0/24": "reserved for documentation",
        "224.0.0.0/4": "multicast",
        "240.0.0.0/4": "reserved",
        "::/128": "unspecified",
        "::ffff:0:0/96": "an IPv4 address in IPv6's clothes",
        "::ffff:0:0:0/96": "an IPv4 address in IPv6's clothes",
        "64:ff9b::/96": "an IPv4 address in IPv6's clothes",
        "64:ff9b:1::/48": "an IPv4 address in IPv6's clothes",
        "2001::/32": "an IPv4 address in IPv6's clothes",
        "2002::/16": "an IPv4 address in IPv6's clothes",
        "2001::/23": "reserved for protocols",
        "2001:db8::/32": "reserved for documentation",
        "3fff::/20": "reserved for documentation",
        "fe80::/10": "link-local",
        "fec0::/10": "site-local",
        "ff00::/8": "multicast",
    }
)
_PRIVATE = _table(
    {
        "10.0.0.0/8": "private",
        "100.64.0.0/10": "private to a carrier",
        "127.0.0.0/8": "this machine (loopback)",
        "172.16.0.0/12": "private",
        "192.168.0.0/16": "private",
        "::1/128": "this machine (loopback)",
        "fc00::/7": "private",
    }
)
_IPV4_COMPATIBLE = ip_network("::/96")
_GLOBAL_IPV6 = ip_network("2000::/3")  # nothing else has been given out


def read_address(text: str) -> Address | None:
    """Return the address a text is, in its standard notation, or None; a zone (`fe80::1%eth0`) is not standard here."""
    try:
        return None if "%" in text else ip_address(text)
    except ValueError:
        return None


def refusal(address: Address, *, allow_private: bool = False) -> str | None:
    """Return why nothing may connect to an address, or None.

    Args:
        address: Where a connection would go.
        allow_private: Whether loopback, private and carrier networks are fine. Link-local, multicast, reserved and
            metadata addresses, and IPv6 addresses that stand for IPv4 ones, never are.
    """
    never = _meaning(address, _NEVER)
    if never is not None:
        return f"{address} is {never}"
    private = _meaning(address, _PRIVATE)
    if private is not None:
        return None if allow_private else f"{address} is {private}"
    if address in _IPV4_COMPATIBLE:
        return f"{address} is an IPv4 address in IPv6's clothes"
    if address.version == 6 and address not in _GLOBAL_IPV6:
        return f"{address} is reserved"
    return None


def _meaning(address: Address, table: _Table) -> str | None:
    return next((meaning for network, meaning in table if address in network), None)
