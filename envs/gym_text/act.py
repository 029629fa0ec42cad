"""The tool that a move is made with, where an action is a call.

It does not know what a move does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Literal

from agentgrpo.tooling import Tool, as_tool


def act_tool(words: tuple[str, ...] | None, move: Callable[[str], str]) -> Tool:
    """Return the tool `act`.

    Args:
        words: What an action can be; None: any text.
        move: Makes a move and returns what it led to.
    """
    return replace(_described(words), function=move)


@lru_cache(maxsize=64)  # environments are made by the thousand
def _described(words: tuple[str, ...] | None) -> Tool:
    def act(action: str) -> str:
        """Make a move and see what it led to."""
        raise AssertionError("only its schema is taken")

    if words:
        act.__annotations__["action"] = Literal[words]
    return as_tool(act)
