"""What a tool's calls did to the world: how often the state changed in a turn that called nothing else.

A tool that answers as ever but no longer does anything fails no call: only this shows it. It reads a bounded number
of episodes; an environment that does not say what changed leaves it unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentgrpo.errors import UserError
from agentgrpo.store.filter import Between, Filter, Term
from agentgrpo.store.reader import EpisodeReader
from agentgrpo.types import JsonObject, Phase

MOST_EPISODES = 32  # that are read of each tool and span: their records, not their tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """Turns that called one tool and nothing else, without a failure, and how many of them changed the state."""

    turns: int = 0
    changed: int = 0

    @property
    def rate(self) -> float | None:
        """Share of the turns that changed the state; None where there are none."""
        return self.changed / self.turns if self.turns else None


def effect_of(tool: str, records: Iterable[JsonObject]) -> Effect:
    """Return what the calls of a tool did in the episodes of some records."""
    changes = [bool(turn["state_diff"]) for record in records for turn in record["turns"] if _is_plain(turn, tool)]
    return Effect(turns=len(changes), changed=sum(changes))


def _is_plain(turn: Mapping[str, Any], tool: str) -> bool:
    names = {call.get("name") for call in turn["action"].get("tool_calls") or ()}
    is_known = turn["state_diff"] is not None
    return names == {tool} and is_known and not any(message.get("is_error") for message in turn["messages"])


def tool_effects(
    reader: EpisodeReader, tools: Sequence[str], phase: Phase, before: tuple[int, int], after: tuple[int, int]
) -> dict[str, tuple[Effect, Effect]]:
    """Return the effect of each tool in two spans of steps, from the episodes nearest the later one's start."""
    return {
        tool: (
            effect_of(tool, _records(reader, tool, phase, before, is_last=True)),
            effect_of(tool, _records(reader, tool, phase, after, is_last=False)),
        )
        for tool in tools
    }


def _records(
    reader: EpisodeReader, tool: str, phase: Phase, steps: tuple[int, int], *, is_last: bool
) -> Iterable[JsonObject]:
    terms = (
        Term(field="phase", values=(phase,)),
        Term(field="step", values=(Between(low=steps[0], high=steps[1]),)),
        Term(field="tool", values=(tool,)),
    )
    rows = reader.list(Filter(terms=terms), order="step", descending=is_last, limit=MOST_EPISODES)
    return (record for row in rows if (record := _record(reader, row.id)) is not None)


def _record(reader: EpisodeReader, row_id: int) -> JsonObject | None:
    """Return a record; None where it cannot be read, or was replaced meanwhile."""
    try:
        return reader.record(row_id)
    except (UserError, ValueError):
        return None
