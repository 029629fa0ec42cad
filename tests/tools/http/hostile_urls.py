"""URLs that try to reach what is inside: every notation of every kind of address, names, redirects' targets, tricks."""

from __future__ import annotations

from ipaddress import IPv4Address

# What a name may resolve to although nobody outside should get there.
INSIDE = (
    *("127.0.0.1", "127.255.255.254", "10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.255", "192.168.0.1"),
    *("100.64.0.1", "100.127.255.254", "100.100.100.200", "169.254.169.254", "169.254.0.1", "168.63.129.16"),
    *("0.0.0.0", "0.1.2.3", "192.0.0.192", "192.0.2.1", "192.88.99.1", "198.18.0.1", "198.51.100.7", "203.0.113.7"),
    *("224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255"),
    *("::1", "::", "fe80::1", "fec0::1", "fc00::1", "fd00:ec2::254", "fd20:ce::254", "ff02::1", "2001:db8::1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:a9fe:a9fe", "::127.0.0.1", "::ffff:0:127.0.0.1"),
    *("64:ff9b::7f00:1", "64:ff9b:1::a00:1", "2002:7f00:1::", "2002:a9fe:a9fe::1", "2001:0:7f00:1::", "3fff::1"),
    *("2001:0:53aa:64c:0:fbff:5601:5601", "100::1", "4000::1", "5f00::1", "2001:10::1"),
)
NAMES = {f"inside-{index}.example": [[address]] for index, address in enumerate(INSIDE)} | {
    name: [["127.0.0.1"]]
    for name in ("localhost", "intranet", "a.localhost", "127.0.0.1.nip.example", "metadata.google.internal")
}
MIXED = {
    f"mixed-{index}.example": [["93.184.216.34", address]]
    for index, address in enumerate(("127.0.0.1", "10.0.0.1", "::1"))
}


def notations(address: str) -> list[str]:
    """Return an IPv4 address in the ways that some reader of URLs takes for it."""
    number = int(IPv4Address(address))
    a, b, c, d = IPv4Address(address).packed
    return [
        address,
        str(number),
        hex(number),
        f"0X{number:08X}",
        f"0{number:o}",
        f"0x{a:x}.0x{b:x}.0x{c:x}.0x{d:x}",
        f"0{a:03o}.0{b:03o}.0{c:03o}.0{d:03o}",
        f"{a:03}.{b:03}.{c:03}.{d:03}",
        f"{a}.{number & 0xFFFFFF}",
        f"{a}.{b}.{number & 0xFFFF}",
        f"0x{a:x}.{b}.0{number & 0xFFFF:o}",
        f"{a}.{b}.{c}.0x{d:x}",
        f"{address}.",
        address.replace(".", "\u3002"),
        address.translate({ord("0") + n: chr(0xFF10 + n) for n in range(10)}),
        address.replace(".", "%2e"),
        "".join(f"%{ord(character):02x}" for character in address),
        f"[::ffff:{address}]",
        f"[::{address}]",
        f"[64:ff9b::{a:02x}{b:02x}:{c:02x}{d:02x}]",
        f"[2002:{a:02x}{b:02x}:{c:02x}{d:02x}::]",
    ]


IPV6 = (
    *(
        "[::1]",
        "[0:0:0:0:0:0:0:1]",
        "[0000::0001]",
        "[::]",
        "[::ffff:127.1]",
        "[::ffff:7f00:1]",
        "[::1%25lo]",
        "[::1%lo]",
    ),
    *(
        "[fe80::1]",
        "[fe80::1%25eth0]",
        "[fd00:ec2::254]",
        "[FD00:EC2::254]",
        "[fc00::1]",
        "[ff02::1]",
        "[::FFFF:127.0.0.1]",
    ),
    *("[v1.127.0.0.1]", "[127.0.0.1]", "[::1", "::1]", "::1", "[[::1]]", "[::1].", "[::1]x", "[]"),
)
HOSTS = (
    "localhost.",
    "localhost..",
    "LOCALHOST",
    "loc%61lhost",
    "127.0.0.1..",
    ".127.0.0.1",
    "127..0.0.1",
    "127.0.0.1.x:1@",
)


def corpus(port: int) -> list[str]:
    """Return the URLs; all of them name the port that the watched server is on, where they name one."""
    hosts = [form for address in ("127.0.0.1", "10.0.0.1", "169.254.169.254", "0.0.0.0") for form in notations(address)]
    hosts += [*IPV6, *HOSTS, *NAMES, *MIXED]
    return [f"http://{host}:{port}/inside" for host in hosts] + tricks(f"127.0.0.1:{port}", port)


def tricks(inside: str, port: int) -> list[str]:
    """Return texts that one reader takes for a public URL and another for one of `inside`."""
    public = f"public.example:{port}"
    return [
        *(f"http://{public}@{inside}/", f"http://user:pass@{inside}/", f"http://@{inside}/", f"http://:@{inside}/"),
        *(f"http://{inside}#@{public}/", f"http://{inside}?@{public}/", f"http://{inside}/@{public}/"),
        *(f"http://{inside}\\@{public}/", f"http://{public}\\@{inside}/", f"http:\\\\{inside}/", f"http:/\\{inside}/"),
        *(f"http:///{inside}/", f"http:/{inside}/", f"http:{inside}/", f"//{inside}/", f"\\\\{inside}\\", inside),
        *(f"http://{inside}%00.{public}/", f"http://{inside}\x00.{public}/", f"http://{inside}%23@{public}/"),
        *(
            f" http://{inside}/",
            f"http://{inside}/ ",
            f"http://\t{inside}/",
            f"ht\ntp://{inside}/",
            f"\x01http://{inside}/",
        ),
        *(f"http://{inside}\r\nHost: {public}/", f"http://{inside}/\r\nX: y", f"http://{inside}/ HTTP/1.1\r\nX: y"),
        *(f"http://{public}%0d%0a@{inside}/", f"http://127.0.0.1%0d%0a:{port}/", f"http://{public},{inside}/"),
        *(f"http://{public} @{inside}/", f"http://{public}&@{inside}#@{public}/", f"http://{inside};{public}/"),
        *(f"http://127.0.0.1:{port}:80/", f"http://127.0.0.1:80:{port}/", "http://127.0.0.1:/", "http://127.0.0.1:0/"),
        *(
            f"http://127.0.0.1:+{port}/",
            f"http://127.0.0.1:0{port}/",
            "http://127.0.0.1:99999/",
            "http://127.0.0.1:-1/",
        ),
        *(f"http://127.0.0.1:{port + 65536}/", f"http://127.0.0.1%3A{port}/", f"http://127.0.0.1:{port}abc/"),
        *("http://127.0.0.1/", "https://127.0.0.1/", f"HTTP://{inside}/", f"https://{inside}/", f"hTtP://{inside}/"),
        *(
            "file:///etc/passwd",
            f"ftp://{inside}/",
            f"gopher://{inside}/_x",
            f"dict://{inside}/info",
            "data:text/plain,x",
        ),
        *(
            f"ws://{inside}/",
            f"ldap://{inside}/",
            f"jar:http://{inside}!/",
            f"view-source:http://{inside}/",
            "unix:///x",
        ),
        *(f"http+unix://{inside}/", f"url:http://{inside}/", f"javascript://{inside}/", f"http\u2236//{inside}/", ""),
        *(
            f"http://\u2460\u2461\u2466.\u24ea.\u24ea.\u2460:{port}/",
            f"http://localho\u017ft:{port}/",
            f"http://\u2113ocalhost:{port}/",
        ),
        *(f"http://localhost\u00ad:{port}/", f"http://local\u200bhost:{port}/", f"http://127.0.0.1\u2044@{public}/"),
        *(
            "http://",
            "http://.",
            "http://..",
            "http://%",
            f"http://-{inside}/",
            f"http://x_{'a' * 250}.example:{port}/",
        ),
        f"http://public.example:{port}/" + "a" * 5000,
    ]
