"""Train from a script: the class is passed as it is."""

from __future__ import annotations

import sys
from pathlib import Path

from locker import Locker

import agentgrpo as ag

HERE = Path(__file__).parent


def main(overrides: list[str]) -> None:
    """Train, then say where the run is."""
    run = ag.train(HERE / "locker.toml", env=Locker, tasks=HERE / "lockers.jsonl", overrides=overrides)
    print(run.summary)


if __name__ == "__main__":
    main(sys.argv[1:])
