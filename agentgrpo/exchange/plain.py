"""What may leave a run: JSON that every reader takes, known secrets redacted.

Half characters become U+FFFD, numbers JSON does not have become null. It knows no format.
"""

from __future__ import annotations

import json
import math
import re
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from agentgrpo.store.redact import redact_text
from agentgrpo.types import Json, JsonObject

_HALF = re.compile("[\ud800-\udfff]")


def plain_text(text: str) -> str:
    """Return text without known secrets and half characters, which UTF-8 cannot hold."""
    return redact_text(text if text.isascii() else _HALF.sub("\ufffd", text))


def plain(value: Any) -> Json:
    """Return a value as JSON that any reader takes; twice plain is the same as once."""
    if isinstance(value, str):
        return plain_text(value)
    if isinstance(value, dict):
        return _object(value)
    if isinstance(value, list | tuple):
        are_ids = all(type(item) is int for item in value)  # by the thousand, and plain already
        return list(value) if are_ids else [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int) else plain_text(str(value))


def _object(value: dict[Any, Any]) -> JsonObject:
    found: JsonObject = {}
    for name, item in value.items():
        key = plain_text(str(name))
        while key in found:  # two keys that differed in what was taken out
            key += "_"
        found[key] = plain(item)
    return found


def dump(value: Json) -> str:
    """Return the one line of JSON that stands for plain data: the same text for the same data, always."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def moment(seconds: float) -> str | None:
    """Return seconds since the epoch in ISO 8601, or None where no calendar has them."""
    with suppress(ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(seconds, UTC).isoformat()
    return None
