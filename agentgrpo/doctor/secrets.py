"""Part 11: keys of services written into the config, where they would be copied into every run's folder."""

from __future__ import annotations

from collections.abc import Iterator

from agentgrpo.doctor.report import Finding, fail, ok
from agentgrpo.store.redact import redact_text
from agentgrpo.types import Json


def check_secrets(config: Json) -> Iterator[Finding]:
    """Find values that look like a key."""
    found = [where for where, text in strings(config) if redact_text(text) != text]
    for where in found:
        yield fail(
            f"{where} holds what looks like a secret key",
            "take it out of the file, put it into an environment variable, and name that variable here instead "
            "(the environment or tool reads os.environ); then replace the key: it was in a file",
        )
    if not found:
        yield ok("no key that is known by its shape stands in the config")


def strings(value: Json, where: str = "") -> Iterator[tuple[str, str]]:
    """Yield (path, text) of every string in JSON data, names of members included."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield f"a name in {where or 'the config'}", str(name)
            yield from strings(item, f"{where}.{name}" if where else str(name))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from strings(item, f"{where}[{index}]")
    elif isinstance(value, str):
        yield where, value
