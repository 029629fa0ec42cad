"""JSON Pointers (RFC 6901): places in JSON data, such as "/orders/o1/status", written and taken apart.

It does not know what they point into.
"""

from __future__ import annotations


def below(pointer: str, name: object) -> str:
    """Return the place of a member of what a pointer points at."""
    return f"{pointer}/{str(name).replace('~', '~0').replace('/', '~1')}"


def parts(pointer: str) -> list[str]:
    """Return the names along the way; what comes before the first slash is none."""
    return [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]
