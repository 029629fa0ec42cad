"""MCP servers as an environment: tasks are prompts, the servers' tools are the tools, a function of yours the reward.

It does not know what the servers are for. What they keep outside of their process (files, accounts) is shared by all
episodes: give each server of its own what it writes to, or simulate it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from agentgrpo.core import ToolEnv
from agentgrpo.errors import TaskError
from agentgrpo.references import load_function
from agentgrpo.tooling import Tool
from agentgrpo.tools.mcp.servers import McpServer
from agentgrpo.tools.mcp.toolbox import McpTools
from agentgrpo.types import JsonObject


class McpEnv(ToolEnv):
    """Episodes over MCP servers, each with sessions of its own.

    Args:
        servers: `McpServer`s or their tables: {"command": [...]} or {"url": ...}, and what else they may have.
        reward: "module:function" or "path/to/file.py:function"; it is given the environment and returns named terms or
            one number. It can use `env.task`, `env.answer`, `env.mcp.call(...)` and `env.mcp.read(...)`.
        system_prompt: What the agent is told before the task; "" for nothing.
        tasks: Rows, or a file of rows; each has a "prompt".
        reward_weights: Weight of each reward term.
        tools: Names of the tools to offer; None means all.
        render_mode: "ansi" or None, as in Gymnasium.
    """

    metadata: ClassVar[dict[str, Any]] = {"isolation": "thread"}  # type: ignore[misc]  # as in AgentEnv

    def __init__(
        self,
        *,
        servers: Sequence[McpServer | Mapping[str, Any]],
        reward: str,
        system_prompt: str = "",
        tasks: str | Path | Sequence[JsonObject] | None = None,
        reward_weights: Mapping[str, float] | None = None,
        tools: Sequence[str] | None = None,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(tasks=tasks, reward_weights=reward_weights, tools=tools, render_mode=render_mode)
        self.system_prompt = system_prompt  # type: ignore[misc]  # this one's, not the class's
        self.mcp = McpTools(*servers)
        self._reward = load_function(reward, "reward")

    def reset_task(self, task: JsonObject) -> str:
        """Begin new sessions and return the task's prompt."""
        if not isinstance(task["prompt"], str):
            raise TaskError(f"task '{task['task_id']}': its prompt is {task['prompt']!r}, expected a string")
        self.mcp.restart()
        return task["prompt"]

    def extra_tools(self) -> list[Tool]:
        """Return what the servers offer now."""
        return self.mcp.tools()

    def reward(self) -> Mapping[str, float] | float:
        """Return what the reward function gives."""
        terms: Mapping[str, float] | float = self._reward(self)
        return terms

    def close(self) -> None:
        """End the sessions and the servers that were started."""
        self.mcp.close()
        super().close()
