"""The screen of runs: what each is, how it went, how far it is.

It reads `run.json` and sums per step; no episode is opened for it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from agentgrpo.errors import UserError
from agentgrpo.store.filter import FIELDS
from agentgrpo.store.redact import redact
from agentgrpo.store.rows import StepRow
from agentgrpo.types import JsonObject, StopReason
from agentgrpo.viewer.runs import OpenRun

STALE_SECONDS = 60.0  # without a word from a run that says it is running
SPARK_POINTS = 120


def run_line(run: OpenRun) -> JsonObject:
    """Return a run in short: one row of the list."""
    record = run.record()
    steps = _steps(run)
    train = [row for row in steps if row.phase == "train" and row.scored]
    looks = [row for row in steps if row.phase == "eval" and row.scored]
    return {
        "name": run.name,
        "status": _status(run, record),
        "env": record.get("env_id"),
        "model": _model(record),
        "started": record.get("started_at"),
        "seconds": _seconds(run, record),
        "steps": max((row.step for row in steps if row.phase == "train"), default=0),
        "planned": _dig(record, "config", "train", "steps"),
        "episodes": sum(row.episodes for row in steps),
        "failed": sum(row.failed for row in steps),
        "reward": _thin([(row.step, row.reward / row.scored) for row in train]),
        "success": _thin([(row.step, row.successes / row.scored) for row in train]),
        "heldout": [(row.step, row.successes / row.scored) for row in looks],
        "exact": record.get("exact"),
    }


def run_details(run: OpenRun) -> JsonObject:
    """Return all that `run.json` says of a run, and what its episodes can be filtered by."""
    record: JsonObject = dict(redact(run.record()))
    names: dict[str, Sequence[str]] = {"tool": [], "env": []}
    if run.has_episodes:
        with run.reader() as reader:
            names = {"tool": reader.names("tool"), "env": reader.names("env")}
    words = {name: list(known.words) for name, known in FIELDS.items() if known.words}
    words |= {"tool": list(names["tool"]), "error": list(names["tool"]), "env": list(names["env"])}
    fields = [{"name": name, "about": known.about, "example": known.example} for name, known in FIELDS.items()]
    config = record.pop("config", {})
    return {
        **run_line(run),
        "record": record,
        "config": flat(config),
        "words": words,
        "fields": fields,
        "stops": [str(stop) for stop in StopReason],
        "metrics": sorted(run.metrics.columns),
    }


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested settings as dotted names."""
    if not isinstance(value, dict) or not value:
        return {prefix: value} if prefix else {}
    found: dict[str, Any] = {}
    for name, item in value.items():
        found |= flat(item, f"{prefix}.{name}" if prefix else str(name))
    return found


def _steps(run: OpenRun) -> Sequence[StepRow]:
    if not run.has_episodes:
        return []
    try:
        with run.reader() as reader:
            return reader.steps()
    except UserError:  # it has only just started
        return []


def _status(run: OpenRun, record: JsonObject) -> str:
    status = str(record.get("status") or "unknown")
    if status == "running" and time.time() - _last_word(run) > STALE_SECONDS:
        return "silent"
    return status


def _last_word(run: OpenRun) -> float:
    files = (run.directory.metrics, run.directory.record, run.directory.episodes)
    log = run.directory.episodes.with_name(run.directory.episodes.name + "-wal")
    return max((path.stat().st_mtime for path in (*files, log) if path.is_file()), default=0.0)


def _seconds(run: OpenRun, record: JsonObject) -> float | None:
    started, ended = record.get("started_at"), record.get("ended_at")
    if started is None:
        return None
    return float(ended if ended is not None else max(_last_word(run), started)) - float(started)


def _model(record: JsonObject) -> str | None:
    path = record.get("model_path")
    return None if path is None else str(path).rstrip("/").rsplit("/", 1)[-1]


def _dig(value: Any, *names: str) -> Any:
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _thin(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Return the means of equal parts of a curve, few enough to draw small."""
    size = -(-len(points) // SPARK_POINTS) or 1
    parts = [points[at : at + size] for at in range(0, len(points), size)]
    return [(part[-1][0], sum(value for _, value in part) / len(part)) for part in parts]
