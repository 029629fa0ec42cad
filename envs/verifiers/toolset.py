"""The tools of verifiers' tool servers, called where they are instead of served over MCP.

It does not know tasks beyond handing them to the servers.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from agentgrpo.errors import ToolError
from agentgrpo.tooling import Tool, as_tool
from agentgrpo.types import Json


async def tools_of(taskset: Any, task: Any, state: Any, wait: Callable[..., Any]) -> list[Tool]:
    """Set up the tool servers of a taskset and a task and return their tools.

    Args:
        taskset: Whose servers do not see the task.
        task: Whose servers do.
        state: Of the episode, which they share with the task's rewards.
        wait: Runs a coroutine to its end.
    """
    from verifiers.v1.utils.decorators import discover_decorated

    tools = []
    own = type(task).toolsets(task.config)
    for server in [*taskset.toolsets(taskset.config), *own]:
        server._inert_state = state  # what its `state` gives while no server has fetched another
        await server.setup()
        if server in own:
            await server.setup_task(task.data)
        prefix = f"{server.server_name}_" if server.server_name else ""
        for function in discover_decorated(server, "tool"):
            name = prefix + (getattr(function, "tool_name", None) or function.__name__)
            tools.append(_as_ours(function, name, wait))
    return tools


def _as_ours(function: Callable[..., Any], name: str, wait: Callable[..., Any]) -> Tool:
    def run(**arguments: Json) -> Any:
        try:
            result = function(**arguments)
            return wait(result) if inspect.isawaitable(result) else result
        except Exception as error:  # over MCP the agent is told, and goes on
            raise ToolError(str(error) or type(error).__name__) from error

    return replace(as_tool(function), name=name, function=run, is_async=False)
