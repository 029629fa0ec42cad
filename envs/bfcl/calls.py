"""Calls of BFCL's apps: by name, with arguments; their answers as the leaderboard writes them.

It does not know tasks. Nothing is evaluated: a call is a method that is described, and values.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agentgrpo.envs.bfcl.data import Gold, described
from agentgrpo.types import Json


def methods_of(apps: Mapping[str, Any]) -> dict[str, Callable[..., Any]]:
    """Return the methods that are described as tools, by name; a later app's hides an earlier one's, as there."""
    return {name: getattr(app, name) for kind, app in apps.items() for name in described(kind)}


def named_arguments(method: Callable[..., Any], gold: Gold) -> dict[str, Json]:
    """Return the arguments of a right call by name."""
    return dict(inspect.signature(method).bind(*gold.positional, **gold.named).arguments)


def answer_of(method: Callable[..., Any], positional: Sequence[Json], named: Mapping[str, Json]) -> tuple[str, bool]:
    """Return what a call gives, as text, and whether it raised."""
    try:
        result = method(*positional, **named)
        text = result if isinstance(result, str) else json.dumps(result) if isinstance(result, dict) else str(result)
    except Exception as error:  # the app's way to say no: it does not check its arguments
        return f"Error during execution: {error}", True
    return text, False
