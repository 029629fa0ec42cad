"""Whole train steps (roll out, learn, publish) of this project against TRL's GRPOTrainer: the same model and work.

`python -m bench train [--quick] [--trl-python PATH]`. Both sides are processes that live through a case and make some
steps in turn, so that both see the same machine; one torch thread each. The policy hardly moves (learning rate 1e-7).
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from bench.common import alternate, last_line, paired, report, spread
from bench.lockbox_model import lockbox_model
from bench.side import Facts, Side

HOW = """TRL is not installed beside this project. Either
    pip install -e '.[bench]' -c constraints.txt
in this environment or another one, and for the latter
    python -m bench train --trl-python PATH_OF_ITS_PYTHON"""
OURS = "agentgrpo"
RANK = 8
HEADINGS = (
    *("groups x G x turns", "tools", "side", "trajectories/s", "quartiles", "CPU s/step", "ours, times faster"),
    *("tokens", "sampled", "calls", "reward"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One workload."""

    groups: int
    group_size: int
    turns: int
    latency: float = 0.0
    slow_share: float = 0.0  # of the tool calls: they take ten times as long
    rounds: int = 5
    steps: int = 2  # a round

    @property
    def name(self) -> str:
        return f"{self.groups}x{self.group_size}x{self.turns}"

    @property
    def tools(self) -> str:
        """How long its tool calls take."""
        tail = f", {self.slow_share:.0%} x 10" if self.slow_share else ""
        return f"{1000 * self.latency:g} ms{tail}" if self.latency else "at once"


CASES = (
    Case(groups=2, group_size=8, turns=4, rounds=9),
    Case(groups=4, group_size=8, turns=8),
    Case(groups=2, group_size=8, turns=4, latency=0.05),
)


def has_trl() -> bool:
    """Return whether this environment has TRL."""
    return importlib.util.find_spec("trl") is not None


def main(arguments: Sequence[str] = ()) -> None:
    """Print and write the comparison."""
    parser = argparse.ArgumentParser(prog="python -m bench train")
    parser.add_argument("--quick", action="store_true", help="two cases, TRL's faster settings, few steps")
    parser.add_argument("--trl-python", default=sys.executable, help="the Python that has TRL")
    options = parser.parse_args(arguments)
    if options.trl_python == sys.executable and not has_trl():
        raise SystemExit(HOW)
    model = lockbox_model()
    cases = [replace(CASES[0], rounds=3), replace(CASES[2], rounds=2, steps=1)] if options.quick else CASES
    rows: list[tuple[Any, ...]] = []
    ratios: list[tuple[Case, float, float]] = []
    for case in cases:
        found, ratio, best = against_trl(case, model, options.trl_python, is_quick=options.quick)
        rows += found
        ratios.append((case, ratio, best))
    summary = {
        "vs_trl": min(ratio for case, ratio, _ in ratios if not case.latency),
        "vs_trl_50ms": min(ratio for case, ratio, _ in ratios if case.latency),
        "trajectories_per_s": ratios[0][2],
    }
    summary = {name: round(value, 3) for name, value in summary.items()}
    report("train", HEADINGS, rows, summary=summary)
    last_line(summary)


def against_trl(
    case: Case, model: Path, trl_python: str, *, is_quick: bool
) -> tuple[list[tuple[Any, ...]], float, float]:
    """Measure a case: a row for each side, how many times faster we are than TRL's fastest, our trajectories/s."""
    steps = _measure(case, _sides(case, model, trl_python, is_quick=is_quick))
    rows, ratio = _rows(case, steps)
    return rows, ratio, _best(steps, OURS)


def settings_of(case: Case, model: Path) -> dict[str, Any]:
    """Return what both sides are told."""
    return {
        "model": str(model),
        "groups": case.groups,
        "group_size": case.group_size,
        "turns": case.turns,
        "latency": case.latency,
        "slow_share": case.slow_share,
        "tool_kind": "sync",
        "rank": RANK,
        "learning_rate": 1e-7,
        "max_tokens": 32 * (case.turns + 1),
        "max_completion": 64 * (case.turns + 1),
    }


def _sides(case: Case, model: Path, trl: str, *, is_quick: bool) -> dict[str, tuple[str, str, dict[str, Any]]]:
    """Return (python, module, settings) of each side: all of TRL's ways that may be its fastest."""
    settings = settings_of(case, model)
    full, asynchronous = {**settings, "rank": 0}, {"tool_kind": "async"}
    ours = (sys.executable, "bench.our_side")
    theirs = (trl, "bench.trl_side")
    sides = {OURS: (*ours, settings), "TRL, all weights": (*theirs, full)}
    if is_quick:
        return sides
    if case.latency:
        more = {f"{OURS}, async tools": (*ours, settings | asynchronous)}
        return sides | more | {"TRL, all weights, async tools": (*theirs, full | asynchronous)}
    return sides | {"TRL, LoRA": (*theirs, settings)}


def _measure(case: Case, sides: Mapping[str, tuple[str, str, dict[str, Any]]]) -> dict[str, list[list[Facts]]]:
    """Return the steps of each round of each side."""
    started = {name: Side(*side) for name, side in sides.items()}
    try:
        for side in started.values():
            side.ready()
        return alternate({name: partial(side.steps, case.steps) for name, side in started.items()}, case.rounds)
    finally:
        for side in started.values():
            side.close()


def _speeds(rounds: Sequence[Sequence[Facts]]) -> list[float]:
    """Return trajectories per second of each round."""
    return [sum(s["trajectories"] for s in steps) / sum(s["seconds"] for s in steps) for steps in rounds]


def _best(steps: Mapping[str, list[list[Facts]]], who: str) -> float:
    """Return the median trajectories per second of the fastest of someone's sides."""
    return max(statistics.median(_speeds(rounds)) for name, rounds in steps.items() if name.startswith(who))


def _rows(case: Case, steps: Mapping[str, list[list[Facts]]]) -> tuple[list[tuple[Any, ...]], float]:
    """Return a row for each side, and how many times faster we are than TRL's fastest."""
    ours = _speeds(steps[OURS])
    ratios = {name: paired(ours, _speeds(rounds)) for name, rounds in steps.items() if not name.startswith(OURS)}
    rows = []
    for name, rounds in steps.items():
        every, speed = [step for steps in rounds for step in steps], spread(_speeds(rounds))
        work = [_mean(every, fact) for fact in ("tokens", "sampled", "calls", "reward")]
        quartiles = f"{speed.low:.3g}..{speed.high:.3g}"
        cpu, ratio = statistics.median(s["cpu"] for s in every), str(ratios.get(name, ""))
        rows.append((case.name, case.tools, name, speed.median, quartiles, cpu, ratio, *work))
    return rows, min(ratio.median for ratio in ratios.values())


def _mean(steps: Sequence[Facts], fact: str) -> str:
    """Return a mean per trajectory: what shows that both sides do the same work."""
    return f"{statistics.fmean(s[fact] for s in steps if s[fact] is not None):.4g}"


if __name__ == "__main__":
    main(sys.argv[1:])
