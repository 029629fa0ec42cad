"""The episodes of a run that are worth learning from as they are: successful ones whose every call could be read."""

from __future__ import annotations

from dataclasses import dataclass

from agentgrpo.errors import UserError
from agentgrpo.store.filter import parse_filter
from agentgrpo.store.reader import EpisodeReader
from agentgrpo.store.run import RunDirectory
from agentgrpo.types import Trajectory


@dataclass(frozen=True, slots=True, kw_only=True)
class GoodEpisodes:
    """What was taken, out of how many, and whether the tasks were held out."""

    trajectories: tuple[Trajectory, ...]
    total: int
    unreadable: int
    split: str
    is_imported: bool = False

    def __str__(self) -> str:
        kind = "successful, or not scored" if self.is_imported else "successful"
        taken = f"{len(self.trajectories)} of {self.total} episodes are taken: {kind}"
        taken += f", without the {self.unreadable} that hold a call nobody could read" if self.unreadable else ""
        if self.split == "train":
            return taken
        return (
            f"{taken}. They were played on the tasks of '{self.split}': whoever learns from them has seen those, so "
            "evaluate on others (agentgrpo eval --split train plays the training tasks)"
        )


def good_episodes(run: RunDirectory, *, limit: int) -> GoodEpisodes:
    """Return the first good episodes of a run: those of training, or all that a chat model played.

    Of what was imported, those nobody scored are taken for good: they were picked to be learned from.

    Raises:
        UserError: there is none.
    """
    record = run.read_record()
    is_text = "endpoint" in record
    phase = "phase:eval" if is_text else "phase:train"
    where = parse_filter(f"{phase} success:yes{',none' if 'imported' in record else ''} boundary:none -stop:cancelled")
    with EpisodeReader(run.episodes) as reader:
        total = reader.count(parse_filter(phase))
        rows = reader.list(where, order="id", descending=False, limit=limit)
        found = [reader.get(row.id).trajectory for row in rows]
    readable = [t for t in found if not any("error" in call for turn in t.turns for call in turn.action["tool_calls"])]
    if not readable:
        raise UserError(
            f"{run.path} holds no good episode: {total} were played, {len(found)} succeeded, none with calls that "
            "can all be read. Take a better model, easier tasks, or an environment's oracle (--env)"
        )
    split = next(iter(record.get("tasks", {})), "heldout") if is_text else "train"
    return GoodEpisodes(
        trajectories=tuple(readable),
        total=total,
        unreadable=len(found) - len(readable),
        split=split,
        is_imported="imported" in record,
    )
