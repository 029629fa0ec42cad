"""What the file keeps of each train step besides its episodes: which groups the learner took, and what came of them.

With the episodes it is enough to make the step again. It knows nothing of how a step is made.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from agentgrpo.store.schema import connect_readonly
from agentgrpo.types import Group


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedGroup:
    """A group as it was trained: its scored episodes are those of this task that were drawn for this step."""

    step: int
    task_id: str
    episodes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainStep:
    """One train step: its groups in the order the learner took them, and the adapter it made."""

    step: int
    groups: tuple[TrainedGroup, ...]
    adapter_sha256: str

    @classmethod
    def of(cls, step: int, groups: Sequence[Group], adapter_sha256: str) -> TrainStep:
        """Return what is kept of a step that trained these groups, none of which is empty."""
        trained = tuple(
            TrainedGroup(step=g.trajectories[0].key.step, task_id=g.task.id, episodes=len(g.trajectories))
            for g in groups
        )
        return cls(step=step, groups=trained, adapter_sha256=adapter_sha256)


def write_train_step(connection: sqlite3.Connection, row: TrainStep) -> None:
    """Write a step; one that is made again replaces what was there."""
    groups = json.dumps([[g.step, g.task_id, g.episodes] for g in row.groups], separators=(",", ":"))
    connection.execute("INSERT OR REPLACE INTO train_steps VALUES (?, ?, ?)", (row.step, groups, row.adapter_sha256))


def read_train_steps(path: str | Path) -> dict[int, TrainStep]:
    """Return all train steps of a file by number, in order.

    Raises:
        UserError: there is no such file, it holds no episodes, or it is newer than this code.
    """
    with closing(connect_readonly(Path(path))) as connection:
        rows = connection.execute("SELECT step, groups, adapter_sha256 FROM train_steps ORDER BY step").fetchall()
    return {step: TrainStep(step=step, groups=_groups(groups), adapter_sha256=sha) for step, groups, sha in rows}


def _groups(text: str) -> tuple[TrainedGroup, ...]:
    return tuple(TrainedGroup(step=step, task_id=task, episodes=count) for step, task, count in json.loads(text))
