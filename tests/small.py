"""Models small enough to make in seconds that can act a little: what the end-to-end tests start from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from agentgrpo.config.run import SftConfig, TinyConfig, WarmStartConfig, load_config
from agentgrpo.registry import resolve_env
from agentgrpo.run.report import SilentReporter
from agentgrpo.tasks import load_tasks
from agentgrpo.warm_start.start import warm_start

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "locker"
TINY = TinyConfig(
    hidden_size=32, layers=2, heads=2, kv_heads=1, intermediate_size=64, vocab_size=700, context_length=512
)


def small_model(base: Path, name: str) -> Path:
    """Return the folder of the "lockbox" or the "locker" model under `base`, made at the first call."""
    folder = base / f"{name}-model"
    if folder.exists():
        return folder
    env = "lockbox" if name == "lockbox" else f"{EXAMPLE / 'locker.py'}:Locker"
    source = resolve_env(env)
    tasks = load_tasks(source.tasks("train") if name == "lockbox" else EXAMPLE / "lockers.jsonl")
    sft = SftConfig(steps=60, batch_size=8, episodes=100, learning_rate=1e-2, perfect_fraction=0.5, quality=0.3)
    config = load_config({"model": {"enable_thinking": False}})
    warm_start(config, WarmStartConfig(tiny=TINY, sft=sft), source, tasks, folder, SilentReporter())
    return folder


def small_run(model: Path, runs: Path, **more: Any) -> dict[str, Any]:
    """Return the configuration of a run of two small steps; `more` replaces whole sections."""
    return {
        "name": "small",
        "env": "lockbox",
        "env_args": {"turns": 2},
        "model": {"path": str(model), "enable_thinking": False, "lora": {"rank": 4}},
        "rollout": {
            "tasks_per_step": 2,
            "group_size": 4,
            "max_turns": 4,
            "max_tokens": 96,
            "max_turn_tokens": 32,
        },
        "learner": {"learning_rate": 5e-3},
        "train": {"steps": 2, "runs": str(runs), "threads": 1},
        "eval": {"tasks": 4, "every": 1, "during_tasks": 2},
        **more,
    }


def record_of(run: Path) -> Any:
    """Return the record of a run."""
    return json.loads((run / "run.json").read_text())


def only_run(runs: Path) -> Path:
    """Return the one run in a folder."""
    (run,) = runs.iterdir()
    return run
