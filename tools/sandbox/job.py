"""What one call in a sandbox is: the command, where it runs, what it may use; and how that travels between processes.

It does not know how a job is confined. The launcher imports this: nothing but the standard library.
"""

from __future__ import annotations

import base64
import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from agentgrpo.errors import EnvError

MAX_MESSAGE = 2**27  # bytes
LENGTH = 4  # bytes before each message that say how long it is
WORK, SHM = "work", "shm"  # in a sandbox's folder: where commands start, what becomes /dev/shm
MB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one call may use. Bytes, unless something else is said.

    `memory` and `cpu_seconds` bound each process, and `memory` what all of them hold together, looked at ten times a
    second. `disk` is what the sandbox keeps, deleted files that are still open included; `output` what is returned: the
    middle of more is left out.

    Raises:
        EnvError: a limit is not positive, or the output would be larger than a message may be.
    """

    seconds: float = 10.0
    cpu_seconds: int = 10
    memory: int = 1024 * MB
    disk: int = 256 * MB
    file_size: int = 64 * MB
    processes: int = 64
    open_files: int = 256
    output: int = 16 * 1024

    def __post_init__(self) -> None:
        """Refuse limits that could not be kept."""
        for item in fields(self):
            value = getattr(self, item.name)
            if not value > 0:
                raise EnvError(f"a sandbox's limit {item.name} is {value!r}; expected more than 0")
        if self.output > 16 * MB:
            raise EnvError(f"a sandbox's limit output is {self.output:,} bytes; expected at most {16 * MB:,}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One call.

    `folder` holds what stays: `work` and `shm`. `uid` is the user to become; None means to stay who one is.
    """

    tier: str
    argv: tuple[str, ...]
    folder: str
    readable: tuple[str, ...] = ()
    uid: int | None = None
    stdin: bytes = b""
    limits: Limits = field(default_factory=Limits)

    def pack(self) -> bytes:
        """Return the job as a message."""
        row = asdict(self) | {"stdin": base64.b64encode(self.stdin).decode()}
        return pack(row)

    @classmethod
    def unpack(cls, row: dict[str, Any]) -> Job:
        """Return the job a message holds."""
        values = row | {
            "argv": tuple(row["argv"]),
            "readable": tuple(row["readable"]),
            "stdin": base64.b64decode(row["stdin"]),
            "limits": Limits(**row["limits"]),
        }
        return cls(**values)


def pack(row: dict[str, Any]) -> bytes:
    """Return JSON with its length before it."""
    data = json.dumps(row).encode()
    return len(data).to_bytes(LENGTH, "big") + data


def length_of(head: bytes) -> int:
    """Return the length a message's first bytes announce.

    Raises:
        ValueError: no message is so long.
    """
    length = int.from_bytes(head, "big")
    if length > MAX_MESSAGE:
        raise ValueError(f"a message of {length:,} bytes, at most {MAX_MESSAGE:,}")
    return length
