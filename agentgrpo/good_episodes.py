"""The episodes of a run that are worth learning from as they are: successful ones whose every call could be read."""

from __future__ import annotations

from dataclasses import dataclass

from agentgrpo.errors import UserError
from agentgrpo.store.reader import EpisodeReader
from agentgrpo.store.rows import EpisodeFilter
from agentgrpo.store.run import RunDirectory
from agentgrpo.types import Trajectory


@dataclass(frozen=True, slots=True, kw_only=True)
class GoodEpisodes:
    """What was taken, out of how many, and whether the tasks were held out."""

    trajectories: tuple[Trajectory, ...]
    total: int
    unreadable: int
    split: str

    def __str__(self) -> str:
        taken = f"{len(self.trajectories)} of {self.total} episodes are taken: successful"
        taken += f", without the {self.unreadable} that hold a call nobody could read" if self.unreadable else ""
        if self.split == "train":
            return taken
        return (
            f"{taken}. They were played on the tasks of '{self.split}': whoever learns from them has seen those, so "
            "evaluate on others (agentgrpo eval --split train plays the training tasks)"
        )


def good_episodes(run: RunDirectory, *, limit: int) -> GoodEpisodes:
    """Return the first good episodes of a run: those of training, or all that a chat model played.

    Raises:
        UserError: there is none.
    """
    record = run.read_record()
    is_text = "endpoint" in record
    where = EpisodeFilter(phase="eval" if is_text else "train", success=True)
    with EpisodeReader(run.episodes) as reader:
        total = reader.count(EpisodeFilter(phase=where.phase))
        rows = reader.list(where, order="id", descending=False, limit=limit)
        found = [reader.get(row.id).trajectory for row in rows]
    readable = [t for t in found if not any("error" in call for turn in t.turns for call in turn.action["tool_calls"])]
    if not readable:
        raise UserError(
            f"{run.path} holds no good episode: {total} were played, {len(found)} succeeded, none with calls that "
            "can all be read. Take a better model, easier tasks, or an environment's oracle (--env)"
        )
    split = next(iter(record.get("tasks", {})), "heldout") if is_text else "train"
    return GoodEpisodes(trajectories=tuple(readable), total=total, unreadable=len(found) - len(readable), split=split)
