"""The screen of steps: curves of everything known per step, and the groups of one step.

It knows sums per step, not episodes; what changed between two times is in `shifts`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from agentgrpo.store.rows import EpisodeRow, FacetRow, StepRow
from agentgrpo.types import JsonObject, Phase
from agentgrpo.viewer.runs import OpenRun

MOST_EPISODES = 5000  # of one step that are listed
MOST_VALUES = 60  # of one facet
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


def _mean(total: float, count: int) -> float | None:
    return total / count if count else None
