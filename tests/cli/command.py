"""A command as a person meets it: run in this process, with what it printed and the code it ended with."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Done(NamedTuple):
    code: int
    out: str
    err: str


Command = Callable[..., Done]
