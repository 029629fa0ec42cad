"""An episode somebody else wrote down, as it goes into a run: what a file told of it, and what nobody knows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from agentgrpo.exchange.atif_extra import ParentExtra
from agentgrpo.store.episodes import TrainingRow
from agentgrpo.types import Json, StopReason, Trajectory, Turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """An episode that was read. An empty task id in its key asks for one."""

    trajectory: Trajectory
    training: TrainingRow | None = None
    trajectory_id: str | None = None
    parent: ParentExtra | None = None


def ending_of(turns: Sequence[Turn]) -> StopReason:
    """Return why an episode ended, as far as its last turn tells: with an answer, or with what its calls led to."""
    return StopReason.DONE if turns and turns[-1].action["tool_calls"] else StopReason.ANSWERED


def tells_error(content: Json) -> bool:
    """Return whether what a tool answered is an error as ours are told: {"error": {"type", "message"}}."""
    try:
        return set(json.loads(content)["error"]) == {"type", "message"}
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
