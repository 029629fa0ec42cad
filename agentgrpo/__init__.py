"""agentgrpo trains tool-use agents by reinforcement learning on multi-turn environments.

The public names, imported when first used: defining an environment or reading a run needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentgrpo.config.run import Config, load_config
    from agentgrpo.core import AgentEnv, ToolEnv
    from agentgrpo.envcheck import check_env
    from agentgrpo.errors import AgentGRPOError, RunError, ToolError, ToolFailure, UserError
    from agentgrpo.registry import resolve_env
    from agentgrpo.rewards.checks import Check, check_state
    from agentgrpo.rewards.episode import Episode
    from agentgrpo.rewards.rubric import Rubric
    from agentgrpo.run.ending import Run
    from agentgrpo.store.reader import EpisodeReader
    from agentgrpo.tasks import load_tasks
    from agentgrpo.tooling import tool
    from agentgrpo.training import train
    from agentgrpo.types import StopReason, Task, Trajectory

__version__ = "0.1.0"

_WHERE = {
    "AgentEnv": "agentgrpo.core",
    "AgentGRPOError": "agentgrpo.errors",
    "Check": "agentgrpo.rewards.checks",
    "Config": "agentgrpo.config.run",
    "Episode": "agentgrpo.rewards.episode",
    "EpisodeReader": "agentgrpo.store.reader",
    "Rubric": "agentgrpo.rewards.rubric",
    "Run": "agentgrpo.run.ending",
    "RunError": "agentgrpo.errors",
    "StopReason": "agentgrpo.types",
    "Task": "agentgrpo.types",
    "ToolEnv": "agentgrpo.core",
    "ToolError": "agentgrpo.errors",
    "ToolFailure": "agentgrpo.errors",
    "Trajectory": "agentgrpo.types",
    "UserError": "agentgrpo.errors",
    "check_env": "agentgrpo.envcheck",
    "check_state": "agentgrpo.rewards.checks",
    "load_config": "agentgrpo.config.run",
    "load_tasks": "agentgrpo.tasks",
    "resolve_env": "agentgrpo.registry",
    "tool": "agentgrpo.tooling",
    "train": "agentgrpo.training",
}

__all__ = [
    "AgentEnv",
    "AgentGRPOError",
    "Check",
    "Config",
    "Episode",
    "EpisodeReader",
    "Rubric",
    "Run",
    "RunError",
    "StopReason",
    "Task",
    "ToolEnv",
    "ToolError",
    "ToolFailure",
    "Trajectory",
    "UserError",
    "check_env",
    "check_state",
    "load_config",
    "load_tasks",
    "resolve_env",
    "tool",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'agentgrpo' has no attribute '{name}'")
    value = getattr(import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
