"""Loading what a config names from the package `verifiers`: its environment, its tasks, and what cannot be played here.

It does not play. Environments that need a container, several agents, or hooks into a model's requests are refused.
"""

from __future__ import annotations

import inspect
import itertools
import json
from functools import lru_cache
from typing import Any

from agentgrpo.core import ToolEnv
from agentgrpo.errors import EnvError
from agentgrpo.tasks import require_split
from agentgrpo.tooling import describe
from agentgrpo.types import JsonObject

MOST = 1200  # tasks that are read; a taskset may be infinite
_SHARE = 6  # one task of so many is held out


@lru_cache(maxsize=4)
def load(taskset: str, args: str) -> tuple[Any, tuple[Any, ...]]:
    """Return the environment of a taskset and its first tasks.

    Args:
        taskset: Its id: the name of an installed package, or of one of the tasksets that come with verifiers.
        args: Its own settings, as JSON.

    Raises:
        EnvError: it is not there, or cannot be played here.
    """
    try:
        from verifiers.v1.utils.loaders import load_environment, resolve_env_config
    except ImportError as error:
        raise EnvError(
            "the environment 'verifiers' needs a package, of version 0.4 or newer: pip install verifiers "
            "(its own pins may ask for an environment of its own: see docs/environments-elsewhere.md)"
        ) from error
    try:
        env = load_environment(resolve_env_config({"taskset": {"id": taskset, **json.loads(args)}}))
        tasks = tuple(itertools.islice(env.taskset, MOST))
    except Exception as error:  # whatever its author's code does
        raise EnvError(f"cannot load the verifiers taskset '{taskset}': {describe(error)}") from error
    if not tasks:
        raise EnvError(f"the verifiers taskset '{taskset}' has no tasks")
    reasons = _reasons(env, tasks[0])
    if reasons:
        raise EnvError(f"the verifiers taskset '{taskset}' cannot be played here: {'; '.join(reasons)}")
    return env, tasks


def rows_of(tasks: tuple[Any, ...], split: str) -> list[JsonObject]:
    """Return the rows of `train` or `heldout`, each with the index of a task."""
    require_split(split, ToolEnv.splits, "a verifiers taskset")
    chosen = [index for index in range(len(tasks)) if (index % _SHARE == _SHARE - 1) == (split == "heldout")]
    return [{"task_id": f"{split}-{index}", "index": index} for index in chosen]


def _reasons(env: Any, task: Any) -> list[str]:
    from verifiers.v1 import Env, Task
    from verifiers.v1.configs.agent import agent_config_fields

    kind, agents = type(task), agent_config_fields(env.config)
    scorers = [fn.__name__ for fn in [*task.hooks("reward"), *task.hooks("metric")] if _needs_runtime(fn)]
    found = {
        f"it has {len(agents)} agents ({', '.join(agents)})": len(agents) != 1,
        "its tasks need a container": kind.NEEDS_CONTAINER or task.data.image is not None,
        "its tasks are set up in a runtime": kind.setup is not Task.setup or kind.finalize is not Task.finalize,
        f"its {', '.join(scorers)} need a runtime": bool(scorers),
        "its environment judges several agents": type(env).finalize is not Env.finalize,
        "its environment starts something beside it": type(env).start is not Env.start,
        "its tasks have @stop or @intercept hooks": bool(task.hooks("stop")) or _intercepts(task),
    }
    return [reason for reason, holds in found.items() if holds]


def _needs_runtime(function: Any) -> bool:
    parameter = inspect.signature(function).parameters.get("runtime")
    return parameter is not None and parameter.default is parameter.empty


def _intercepts(task: Any) -> bool:
    from verifiers.v1.utils.decorators import discover_decorated

    return bool(discover_decorated(task, "intercept"))
