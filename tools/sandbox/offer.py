"""A sandbox as tools a model may call.

It does not know what an environment does with them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from agentgrpo.tooling import Tool, as_tool
from agentgrpo.tools.sandbox.box import Sandbox
from agentgrpo.tools.sandbox.client import GRACE


def python_tool(sandbox: Sandbox, *, name: str = "python") -> Tool:
    """Return the tool that runs Python programs in a sandbox."""
    return _tool(sandbox, sandbox.python, name)


def shell_tool(sandbox: Sandbox, *, name: str = "shell") -> Tool:
    """Return the tool that runs shell commands in a sandbox."""
    return _tool(sandbox, sandbox.shell, name)


def _tool(sandbox: Sandbox, function: Callable[..., Any], name: str) -> Tool:
    # The sandbox has its own deadline: the tool's is there for a sandbox that does not answer.
    deadline = sandbox.limits.seconds + GRACE + 1.0
    return replace(as_tool(function), name=name, deadline=deadline, max_output=2 * sandbox.limits.output)
