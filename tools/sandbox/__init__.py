"""Python and shell tools that run what a model wrote, contained by the strongest means this machine has.

The public names, imported when first used: the process that starts the calls needs none of what they import.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentgrpo.tools.sandbox.box import Sandbox
    from agentgrpo.tools.sandbox.job import Limits
    from agentgrpo.tools.sandbox.offer import python_tool, shell_tool
    from agentgrpo.tools.sandbox.outcome import Outcome
    from agentgrpo.tools.sandbox.tiers import TIERS, examine

_WHERE = {
    "TIERS": "tiers",
    "Limits": "job",
    "Outcome": "outcome",
    "Sandbox": "box",
    "examine": "tiers",
    "python_tool": "offer",
    "shell_tool": "offer",
}

__all__ = ["TIERS", "Limits", "Outcome", "Sandbox", "examine", "python_tool", "shell_tool"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'agentgrpo.tools.sandbox' has no attribute '{name}'")
    return getattr(import_module(f"agentgrpo.tools.sandbox.{_WHERE[name]}"), name)
