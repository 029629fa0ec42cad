"""This project's side of the comparison with TRL: `agentgrpo.train`, as a user calls it, held between train steps."""

from __future__ import annotations

import json
import sqlite3
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agentgrpo.run.report import SilentReporter
from agentgrpo.store.run import RunDirectory
from agentgrpo.training import train
from bench.side import Gate

FOREVER = 10**9


class HoldingReporter(SilentReporter):
    """Holds the run at the end of each train step."""

    def __init__(self, runs: Path) -> None:
        self._runs, self._gate = runs, Gate()
        self._gate.begin()

    def step(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        """Report one train step."""
        (run,) = self._runs.iterdir()
        with sqlite3.connect(RunDirectory.open(run).episodes) as store:
            count, tokens = store.execute(
                "SELECT count(*), avg(tokens) FROM episodes WHERE phase = 'train' AND step = ?", (step,)
            ).fetchone()
        facts = {"sampled": metrics["train/sampled_tokens"], "calls": metrics["train/tool_calls"]}
        parts = {"rollout": metrics["time/rollout"], "learn": metrics["time/learn"]}
        self._gate.step_done(
            {"trajectories": count, "tokens": tokens, "reward": metrics["train/reward"], **facts, **parts}
        )


def configuration(settings: Mapping[str, Any], runs: Path) -> dict[str, Any]:
    """Return the run's configuration: the workload of the other side, nothing else done."""
    turns = settings["turns"]
    return {
        "name": "bench",
        "env": "lockbox",
        "env_args": {name: settings[name] for name in ("turns", "latency", "slow_share", "tool_kind")},
        "model": {
            "path": settings["model"],
            "device": "cpu",
            "dtype": "float32",
            "enable_thinking": False,
            "lora": {"rank": settings["rank"], "alpha": 2 * settings["rank"]},
        },
        "rollout": {
            "tasks_per_step": settings["groups"],
            "group_size": settings["group_size"],
            "max_turns": turns + 1,
            "max_tokens": settings["max_tokens"],
        },
        "learner": {"learning_rate": settings["learning_rate"], "drop_zero_variance": False},
        "train": {"steps": FOREVER, "runs": str(runs), "threads": 1, "checkpoint_every": FOREVER},
        "eval": {"every": 0, "tasks": 1},
    }


def main() -> None:
    """Train until told no more."""
    with tempfile.TemporaryDirectory(prefix="agentgrpo-bench-") as folder:
        train(configuration(json.loads(sys.argv[1]), Path(folder)), reporter=HoldingReporter(Path(folder)))


if __name__ == "__main__":
    main()
