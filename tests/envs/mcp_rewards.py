"""Reward functions as a user names them in a configuration file."""

from __future__ import annotations

from agentgrpo.envs.mcp_env import McpEnv


def kept(env: McpEnv) -> dict[str, float]:
    """One for a note that was kept, and a half for an answer."""
    return {"outcome": float(env.task["text"] in env.mcp.call("kept")), "answered": 0.5 * (env.answer is not None)}


NUMBER = 5
