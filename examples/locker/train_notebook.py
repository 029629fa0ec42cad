"""Train where an event loop is running already, as in a notebook cell."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from locker import Locker

import agentgrpo as ag

HERE = Path(__file__).parent


async def cell(overrides: list[str]) -> ag.Run:
    """Do what a notebook cell does: call `ag.train` inside a running loop, with rows instead of a file."""
    lines = (HERE / "lockers.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return ag.train(HERE / "locker.toml", env=Locker, tasks=rows[:-20], heldout=rows[-20:], overrides=overrides)


if __name__ == "__main__":
    print(asyncio.run(cell(sys.argv[1:])).summary)
