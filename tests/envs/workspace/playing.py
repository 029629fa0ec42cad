"""Rows of the workspace: what its tests share."""

from __future__ import annotations

from agentgrpo.envs.rows import SPLITS
from agentgrpo.envs.workspace.env import Workspace
from agentgrpo.types import JsonObject
from tests.envs.playing import one_of_each

ROWS = {split: Workspace.tasks(split) for split in SPLITS}
ONE_OF_EACH = one_of_each(Workspace)


def offered(info: JsonObject) -> list[str]:
    return [tool["function"]["name"] for tool in info["tools"]]


def some_rows(split: str, count: int) -> list[JsonObject]:
    """Return the first rows of each template of a split."""
    return [row for row in ROWS[split] if int(row["task_id"][-3:]) < count]
