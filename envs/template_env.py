"""Base of environments whose tasks are drawn from templates over the worlds of a simulated app.

It does not know any app, world or template.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any, ClassVar

from agentgrpo.envs.app_env import AppEnv, Case, make_case
from agentgrpo.envs.draw import Draw
from agentgrpo.envs.rows import ShippedEnv
from agentgrpo.errors import TaskError
from agentgrpo.types import JsonObject


class TemplateEnv(ShippedEnv, AppEnv):
    """An environment that ships what it draws: a subclass gives the class variables and writes tools and oracle."""

    metadata: ClassVar[dict[str, Any]] = {"isolation": "inline"}  # type: ignore[misc]  # as in AgentEnv
    draw: ClassVar[Draw]

    def case_of(self, task: JsonObject) -> Case:
        """Return what a task starts from and what it wants.

        Raises:
            TaskError: The row has no template of this environment, or lacks something.
        """
        missing = [key for key in ("template", "seed", "goal", "instruction") if key not in task]
        if missing:
            own = f"{type(self).__name__}.tasks(split)"
            raise TaskError(f"a task of {self.shipped.env} has no '{missing[0]}'. Use rows of {own}.")
        self.shipped.require_template(task["template"])
        return _case(type(self), task["template"], task["seed"], json.dumps(task["goal"], sort_keys=True))  # type: ignore[arg-type]


@lru_cache(maxsize=512)
def _case(env: type[TemplateEnv], template: str, seed: int, goal_json: str) -> Case:
    """Build a task's case; cached, because the episodes of a group share it."""
    goal, world, app = json.loads(goal_json), env.draw.make_world(seed), env.app_type()
    env.draw.load_world(app, world)
    case = make_case(app, lambda: env.draw.templates[template].solve(app, world, goal), env.compare)
    app.close()
    return case
