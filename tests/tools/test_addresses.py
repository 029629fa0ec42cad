from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentgrpo.tools.addresses import read_address, refusal

PUBLIC = (
    *("1.1.1.1", "8.8.8.8", "93.184.216.34", "172.32.0.1", "100.128.0.1", "192.0.1.1", "223.255.255.255"),
    *("2606:2800:220:1::1", "2001:4860:4860::8888", "2a00:1450::1"),
)


@pytest.mark.parametrize("text", PUBLIC)
def test_public_addresses_may_be_reached(text: str) -> None:
    assert refusal(ip_address(text)) is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("127.0.0.1", "loopback"),
        ("10.1.2.3", "private"),
        ("100.64.0.1", "carrier"),
        ("169.254.169.254", "metadata"),
        ("100.100.100.200", "metadata"),
        ("168.63.129.16", "metadata"),
        ("fd00:ec2::254", "metadata"),
        ("169.254.1.1", "link-local"),
        ("fe80::1", "link-local"),
        ("0.0.0.0", "unspecified"),
        ("::", "unspecified"),
        ("224.0.0.251", "multicast"),
        ("ff02::fb", "multicast"),
        ("255.255.255.255", "reserved"),
        ("::ffff:8.8.8.8", "IPv4 address in IPv6's clothes"),
        ("::8.8.8.8", "IPv4 address in IPv6's clothes"),
        ("64:ff9b::808:808", "IPv4 address in IPv6's clothes"),
        ("2002:808:808::", "IPv4 address in IPv6's clothes"),
        ("2001:0:1:2:3:4:5:6", "IPv4 address in IPv6's clothes"),
        ("100::1", "reserved"),
        ("fc00::1", "private"),
    ],
)
def test_a_refusal_names_the_address_and_its_kind(text: str, told: str) -> None:
    reason = refusal(ip_address(text))
    assert reason is not None
    assert reason.startswith(str(ip_address(text)))
    assert told in reason


@pytest.mark.parametrize("text", ["127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "::1", "fd12::1"])
def test_private_addresses_can_be_allowed(text: str) -> None:
    assert refusal(ip_address(text)) is not None
    assert refusal(ip_address(text), allow_private=True) is None


@pytest.mark.parametrize(
    "text",
    [
        *("169.254.169.254", "100.100.100.200", "fd00:ec2::254", "0.0.0.0", "::", "fe80::1", "224.0.0.1", "240.0.0.1"),
        *("::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "168.63.129.16"),
    ],
)
def test_some_are_never_allowed(text: str) -> None:
    assert refusal(ip_address(text), allow_private=True) is not None


@settings(deadline=None)
@given(st.ip_addresses())
def test_whatever_python_calls_not_global_is_refused(address: IPv4Address | IPv6Address) -> None:
    if not address.is_global or address.is_multicast:
        assert refusal(address) is not None


@settings(deadline=None)
@given(st.ip_addresses(v=4))
def test_no_ipv4_address_comes_in_through_ipv6(address: IPv4Address) -> None:
    number = int(address)
    forms = [
        number,
        0xFFFF << 32 | number,
        0xFFFF << 48 | number,
        0x64FF9B << 96 | number,
        0x2002 << 112 | number << 80,
    ]
    for form in forms:
        assert refusal(IPv6Address(form), allow_private=form == 1) is not None or form == 1


@pytest.mark.parametrize(
    "text", ["fe80::1%eth0", "127.1", "0x7f000001", "010.0.0.1", "2130706433", "", "::1%25", "1.1.1.1 "]
)
def test_only_the_standard_notation_is_an_address(text: str) -> None:
    assert read_address(text) is None
