"""What a call in a sandbox costs: `python -m bench sandbox [--quick]`.

Start and run `print(1)` in each tier this machine has, beside the same command as a bare child process, alternating;
and how many such calls per second there are with some sandboxes side by side.
"""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from agentgrpo.tools.sandbox import TIERS, Sandbox, examine
from bench.common import alternate, last_line, report, spread

PROGRAM = ["-s", "-c", "print(1)"]
SIDE_BY_SIDE = 16


def main(*, quick: bool) -> None:
    """Measure, print the table, write it to results."""
    tiers = [tier for tier in TIERS if examine(tier).is_there]
    with ExitStack() as stack:
        boxes = {tier: stack.enter_context(Sandbox(minimum="process", tier=tier)) for tier in tiers}
        python = boxes[tiers[0]].python_path
        sides: dict[str, Callable[[], float]] = {"bare": partial(_timed, partial(_bare, python))}
        for tier, box in boxes.items():
            sides[tier] = partial(_timed, partial(_confined, box))
        found = alternate(sides, 10 if quick else 60)
    spreads = {name: spread(values) for name, values in found.items()}
    rates: dict[str, float] = {tier: asyncio.run(_rate(tier, 5 if quick else 20)) for tier in tiers}
    rows = [
        [name, str(ms), min(found[name]), min(found[name]) - min(found["bare"]), rates.get(name, "-")]
        for name, ms in spreads.items()
    ]
    headings = ("tier", "ms a call", "ms at best", "more than bare", f"calls/s, {SIDE_BY_SIDE} at once")
    report("sandbox", headings, rows)
    last_line({f"{name}_ms": round(min(values), 1) for name, values in found.items()})


def _timed(call: Callable[[], str]) -> float:
    clock = time.perf_counter()
    printed = call()
    took = time.perf_counter() - clock
    if printed != "1\n":
        raise SystemExit(f"the command printed {printed!r}")
    return 1000 * took


def _bare(python: str) -> str:
    return subprocess.run([python, *PROGRAM], capture_output=True, text=True, timeout=60).stdout


def _confined(box: Sandbox) -> str:
    return box.run_sync([box.python_path, *PROGRAM]).output


async def _rate(tier: str, calls: int) -> float:
    boxes = [Sandbox(minimum="process", tier=tier) for _ in range(SIDE_BY_SIDE)]

    async def work(box: Sandbox) -> None:
        for _ in range(calls):
            await box.run([box.python_path, *PROGRAM])

    clock = time.perf_counter()
    await asyncio.gather(*map(work, boxes))
    took = time.perf_counter() - clock
    for box in boxes:
        box.close()
    return calls * SIDE_BY_SIDE / took
