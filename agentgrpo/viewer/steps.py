"""The screen of steps: curves of everything known per step, the groups of one step, and what changed between two times.

It knows sums per step, not episodes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from agentgrpo.store.rows import EpisodeRow, FacetRow, StepRow
from agentgrpo.types import JsonObject, Phase
from agentgrpo.viewer.runs import OpenRun

MOST_EPISODES = 5000  # of one step that are listed
MOST_VALUES = 60  # of one facet
FAINT = 0.02  # strength below which a shift is not worth a line
_PER_EPISODE = ("turns", "sampled_tokens", "tool_calls")


def steps_data(run: OpenRun) -> JsonObject:
    """Return sums of every step, and every metric of the run, as columns."""
    rows: Sequence[StepRow] = []
    facets: dict[str, Any] = {}
    if run.has_episodes:
        with run.reader() as reader:
            rows = reader.steps()
            facets = {phase: facet_columns(reader.facets(phase)) for phase in ("train", "eval")}
    run.metrics.refresh()
    names = [name for name in run.metrics.columns if name != "time"]
    return {
        "train": _columns([row for row in rows if row.phase == "train"]),
        "eval": _columns([row for row in rows if row.phase == "eval"]),
        "facets": facets,
        "metrics": {"steps": run.metrics.steps, "series": {name: run.metrics.column(name) for name in names}},
    }


def _columns(rows: Sequence[StepRow]) -> JsonObject:
    """Return means over scored episodes, and counts, of each step."""
    data: JsonObject = {
        "steps": [row.step for row in rows],
        "episodes": [row.episodes for row in rows],
        "scored": [row.scored for row in rows],
        "failed": [row.failed for row in rows],
        "filtered": [row.filtered for row in rows],
        "reward": [_mean(row.reward, row.scored) for row in rows],
        "success": [_mean(row.successes, row.scored) for row in rows],
        "tool_error_rate": [_mean(row.tool_errors, row.tool_calls) for row in rows],
    }
    return data | {name: [_mean(getattr(row, name), row.episodes) for row in rows] for name in _PER_EPISODE}


def facet_columns(rows: Iterable[FacetRow]) -> JsonObject:
    """Return the sums of what episodes have in common, by facet and value, the most frequent first.

    Each value has columns of equal length: steps, episodes, scored, successes, reward, calls, errors.
    """
    found: dict[str, dict[str, list[FacetRow]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        found[row.facet][row.value].append(row)
    names = ("step", "episodes", "scored", "successes", "reward", "calls", "errors")
    data: JsonObject = {}
    for facet, values in found.items():
        often = sorted(values, key=lambda value: -sum(row.episodes for row in values[value]))[:MOST_VALUES]
        data[facet] = [
            {"value": value, **{f"{name}s" if name == "step" else name: _pick(values[value], name) for name in names}}
            for value in often
        ]
    return data


def _pick(rows: Sequence[FacetRow], name: str) -> list[Any]:
    return [getattr(row, name) for row in rows]


def groups_data(run: OpenRun, phase: Phase, step: int) -> JsonObject:
    """Return the groups of a step: the rewards and advantages of their episodes, by task."""
    rows: Sequence[EpisodeRow] = []
    if run.has_episodes:
        with run.reader() as reader:
            rows = reader.in_step(phase, step, MOST_EPISODES + 1)
    groups: dict[str, list[EpisodeRow]] = defaultdict(list)
    for row in rows[:MOST_EPISODES]:
        groups[row.task_id].append(row)
    return {
        "phase": phase,
        "step": step,
        "groups": [_group_line(task, group) for task, group in groups.items()],
        "is_cut": len(rows) > MOST_EPISODES,
    }


def _group_line(task: str, rows: Sequence[EpisodeRow]) -> JsonObject:
    rewards = [row.reward for row in rows if row.reward is not None]
    return {
        "task": task,
        "episodes": [
            {
                "id": row.id,
                "key": str(row.key),
                "sample": row.sample,
                "attempt": row.attempt,
                "reward": row.reward,
                "success": row.success,
                "advantage": row.advantage,
                "filtered": row.filter_reason,
                "stop": row.stop_reason,
                "errors": row.tool_errors,
            }
            for row in rows
        ],
        "reward": _mean(sum(rewards), len(rewards)),
        "success": _mean(sum(bool(row.success) for row in rows), len(rewards)),
        "spread": max(rewards) - min(rewards) if rewards else None,
        "turns": _mean(sum(row.turns for row in rows), len(rows)),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """One value of a facet in one span of steps."""

    episodes: int = 0
    scored: int = 0
    successes: int = 0
    calls: int = 0
    errors: int = 0

    def __add__(self, other: Share) -> Share:
        return self._with(other, 1)

    def __sub__(self, other: Share) -> Share:
        return self._with(other, -1)

    def _with(self, other: Share, sign: int) -> Share:
        sums = {f.name: getattr(self, f.name) + sign * getattr(other, f.name) for f in fields(Share)}
        return Share(**sums)

    @property
    def success(self) -> float | None:
        return _mean(self.successes, self.scored)

    @property
    def error_rate(self) -> float | None:
        return _mean(self.errors, self.calls)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """How one value of a facet differs between two spans of steps; `strength`, from 0 to 1, says how clearly."""

    facet: str
    value: str
    before: Share
    after: Share
    strength: float


def shifts(before: Iterable[FacetRow], after: Iterable[FacetRow], *, limit: int = 12) -> list[Shift]:
    """Return what differs most between the episodes of two spans of steps, the clearest first.

    Three things count: success of the episodes that have a value, against all the others (what changed for everybody
    says nothing of this value); failed calls of a tool; how often a stop reason occurs at all. It is arithmetic on
    sums, a place to look at first, not a proof of cause.
    """
    first, second = _shares(before), _shares(after)
    whole = _whole_share(first), _whole_share(second)
    found = []
    for facet, value in first.keys() | second.keys():
        shares = first.get((facet, value), Share()), second.get((facet, value), Share())
        strength = _strength(facet, shares, whole)
        found.append(Shift(facet=facet, value=value, before=shares[0], after=shares[1], strength=strength))
    found.sort(key=lambda shift: (-shift.strength, shift.facet, shift.value))
    return [shift for shift in found[:limit] if shift.strength > FAINT]


def _strength(facet: str, shares: tuple[Share, Share], whole: tuple[Share, Share]) -> float:
    part = [share.episodes / max(1, total.episodes) for share, total in zip(shares, whole, strict=True)]
    own, others = _change(*shares), _change(*(total - share for share, total in zip(shares, whole, strict=True)))
    apart = abs(own - others) * part[1] ** 0.5 if own is not None and others is not None else 0.0
    rates = [share.error_rate or 0.0 for share in shares]
    failing = abs(rates[1] - rates[0]) * part[1] ** 0.5 if facet == "tool" else 0.0
    occurring = abs(part[1] - part[0]) if facet == "stop" else 0.0
    # Few episodes say little: as if there were four more that show nothing.
    fewest = min(share.episodes for share in shares) if facet != "stop" else max(share.episodes for share in shares)
    return max(apart, failing, occurring) * fewest / (fewest + 4)


def _change(before: Share, after: Share) -> float | None:
    if before.success is None or after.success is None:
        return None
    return after.success - before.success


def _whole_share(shares: Mapping[tuple[str, str], Share]) -> Share:
    """Return all episodes: each ends once."""
    total = Share()
    for (facet, _), share in shares.items():
        total = total + share if facet == "stop" else total
    return total


def _shares(rows: Iterable[FacetRow]) -> dict[tuple[str, str], Share]:
    sums: dict[tuple[str, str], Share] = defaultdict(Share)
    for row in rows:
        one = Share(
            episodes=row.episodes, scored=row.scored, successes=row.successes, calls=row.calls, errors=row.errors
        )
        sums[row.facet, row.value] += one
    return sums


def shift_data(run: OpenRun, phase: Phase, before: tuple[int, int], after: tuple[int, int]) -> JsonObject:
    """Return what differs between two spans of steps, and their success."""
    with run.reader() as reader:
        first, second = reader.facets(phase, *before), reader.facets(phase, *after)
    found = shifts(first, second)
    return {
        "phase": phase,
        "before": {"steps": before, **_whole(first)},
        "after": {"steps": after, **_whole(second)},
        "shifts": [
            {
                "facet": shift.facet,
                "value": shift.value,
                "before": _share_data(shift.before),
                "after": _share_data(shift.after),
            }
            for shift in found
        ],
    }


def _share_data(share: Share) -> JsonObject:
    return {
        "episodes": share.episodes,
        "success": share.success,
        "errors": share.error_rate,
        "calls": share.calls,
    }


def _whole(rows: Sequence[FacetRow]) -> JsonObject:
    ends = [row for row in rows if row.facet == "stop"]
    scored = sum(row.scored for row in ends)
    return {
        "episodes": sum(row.episodes for row in ends),
        "success": _mean(sum(row.successes for row in ends), scored),
        "reward": _mean(sum(row.reward for row in ends), scored),
    }


def _mean(total: float, count: int) -> float | None:
    return total / count if count else None
