"""The screen of time: when each episode of a step ran, and what of that was the model's, the tools' and nobody's.

A turn's two durations are recorded, not its start: turns are drawn one after the other, what is left over comes last.
"""

from __future__ import annotations

from agentgrpo.types import JsonObject, Phase
from agentgrpo.viewer.runs import OpenRun

MOST_EPISODES = 512


def timeline_data(run: OpenRun, phase: Phase, step: int) -> JsonObject:
    """Return the episodes of a step in the order they started, with the seconds of each turn."""
    episodes: list[JsonObject] = []
    with run.reader() as reader:
        rows = sorted(reader.in_step(phase, step, 10 * MOST_EPISODES), key=lambda row: (row.started_at, row.id))
        begin = rows[0].started_at if rows else 0.0
        for row in rows[:MOST_EPISODES]:
            turns = reader.record(row.id)["turns"]
            episodes.append(
                {
                    "id": row.id,
                    "key": str(row.key),
                    "task": row.task_id,
                    "sample": row.sample,
                    "success": row.success,
                    "stop": row.stop_reason,
                    "start": row.started_at - begin,  # until then it waited for a place
                    "seconds": row.seconds,
                    "turns": [[turn["generate_seconds"], turn["env_seconds"]] for turn in turns],
                }
            )
    run.metrics.refresh()
    times = {name: run.metrics.column(name) for name in run.metrics.columns if name.startswith("time/")}
    return {
        "phase": phase,
        "step": step,
        "begin": begin,
        "episodes": episodes,
        "is_cut": len(rows) > MOST_EPISODES,
        "run": {"steps": run.metrics.steps, "series": times},
    }
