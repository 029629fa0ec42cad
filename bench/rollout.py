"""The rollout path against what it could be at best: `python -m bench rollout [--quick] [--trl-python PATH]`.

(b) CPU time per turn of everything that is not the engine; (c) episodes per second as a fraction of the ideal, for
tools without latency, with a constant one and with a heavy tail; beside TRL's with a tail. The parts that need vLLM
(null without it) or a learner are modules of their own.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from agentgrpo.chat import Chat
from agentgrpo.config.run import RolloutConfig
from agentgrpo.registry import resolve_env
from agentgrpo.rollout.manager import RolloutManager
from agentgrpo.store.episodes import EpisodeStore
from agentgrpo.tasks import load_tasks
from agentgrpo.types import Policy, Sampling, Trajectory
from bench import rollout_async, rollout_vllm, train
from bench.common import last_line, report
from bench.ideal import makespan
from bench.lockbox_model import lockbox_model
from bench.workplace import Cost, Desk, Draw, ModelledEngine, Script, Workplace, at_once, constant, heavy_tailed

GROUP = 8
QUICK_ENGINE = Cost(step=0.001, sequence=0.0)  # for the CPU time of a turn: the less it waits, the sooner it is known
TAIL = train.Case(groups=2, group_size=8, turns=4, latency=0.05, slow_share=0.1, rounds=3)
HEADINGS = ("part", "episodes", "at once", "turns", "seconds", "ideal s", "CPU ms/turn", "of the ideal")


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A rollout to be measured."""

    env: type[Workplace] = Workplace
    draw: Draw = at_once
    cost: Cost = field(default_factory=Cost)
    episodes: int = 384
    places: int = 64
    turns: int = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One rollout that was measured."""

    seconds: float
    cpu: float  # without the engine's
    turns: int
    ideal: float

    @property
    def fraction(self) -> float:
        """Episodes per second, of the ideal's."""
        return self.ideal / self.seconds

    @property
    def cpu_ms(self) -> float:
        """CPU milliseconds per turn."""
        return 1000 * self.cpu / self.turns


CROWD = Work(cost=QUICK_ENGINE, episodes=512, places=512)
CPU = {"CPU, env in the loop": replace(CROWD, env=Desk), "CPU, env in threads": CROWD}
LATENCIES = {"none": Work(), "constant": Work(draw=constant), "heavy": Work(draw=heavy_tailed)}


def main(arguments: Sequence[str] = ()) -> None:
    """Print and write what was found."""
    parser = argparse.ArgumentParser(prog="python -m bench rollout")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter episodes, one round, without TRL")
    parser.add_argument("--trl-python", default=sys.executable, help="the Python that has TRL")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    chat, quick = Chat.from_folder(lockbox_model(), enable_thinking=False), bool(options.quick)
    rows: list[Sequence[Any]] = []
    cpu = _cpu_per_turn(chat, rows, quick=quick)
    fractions = _fractions(chat, rows, quick=quick)
    summary: dict[str, Any] = {"vs_bare_vllm": None, "cpu_ms_per_turn": cpu, "ideal_fraction": fractions}
    summary["vs_trl_heavy"] = None if quick else _against_trl(options.trl_python)
    summary["async_vs_sync"] = rollout_async.measure(quick=quick)
    summary |= rollout_vllm.measure(quick=quick)
    report("rollout", HEADINGS, rows, summary=summary)
    last_line(summary)


def _cpu_per_turn(chat: Chat, rows: list[Sequence[Any]], *, quick: bool) -> float:
    """Return CPU milliseconds per turn, the engine's left out, of an environment in the event loop.

    The table has those of one with `async def` tools as well, whose steps change threads four times a turn.
    """
    _roll_out(chat, replace(CROWD, episodes=64), 0)  # warms up
    found = {}
    for name, work in list(CPU.items())[: 1 if quick else None]:
        measured = [_roll_out(chat, work, step) for step in range(1, 2 if quick else 4)]
        found[name] = statistics.median(m.cpu_ms for m in measured)
        rows.append((name, work.episodes, work.places, measured[-1].turns, measured[-1].seconds, "", found[name], ""))
    return round(next(iter(found.values())), 3)


def _fractions(chat: Chat, rows: list[Sequence[Any]], *, quick: bool) -> dict[str, float]:
    """Return how near episodes per second come to the ideal, for each kind of tool latency."""
    fractions = {}
    for name, work in LATENCIES.items():
        work = replace(work, episodes=40, turns=2) if quick else work
        measured = [_roll_out(chat, work, step) for step in range(1 if quick else 3)]
        middle = sorted(measured, key=lambda m: m.fraction)[len(measured) // 2]
        timing = (middle.turns, middle.seconds, middle.ideal, middle.cpu_ms, middle.fraction)
        rows.append((name, work.episodes, work.places, *timing))
        fractions[name] = round(middle.fraction, 3)
    return fractions


def _roll_out(chat: Chat, work: Work, step: int) -> Measured:
    """Run episodes through the whole path, the store included, and simulate them without overhead."""
    script = Script(chat, work.draw, turns=work.turns, seed=step)
    engine = ModelledEngine(script=script, cost=work.cost)
    gc.collect()
    cpu, clock = time.process_time(), time.perf_counter()
    turns = asyncio.run(_play(chat, engine, work, step))
    seconds, cpu = time.perf_counter() - clock, time.process_time() - cpu
    ideal = makespan(script.plans.values(), work.cost, work.places)
    return Measured(seconds=seconds, cpu=cpu - engine.cpu, turns=turns, ideal=ideal)


async def _play(chat: Chat, engine: ModelledEngine, work: Work, step: int) -> int:
    source = resolve_env(work.env)
    tasks = load_tasks(source.tasks("train"))[: work.episodes // GROUP]
    config = RolloutConfig(concurrency=work.places, max_turns=work.turns, tool_seconds=300.0)
    turns = 0
    with (
        tempfile.TemporaryDirectory(prefix="agentgrpo-bench-") as folder,
        EpisodeStore(Path(folder) / "episodes.sqlite") as store,
    ):

        async def keep(trajectory: Trajectory) -> None:
            nonlocal turns
            await store.add([trajectory])
            turns += len(trajectory.turns)

        async with RolloutManager(source, chat, engine, config, seed=0) as manager:
            await manager.rollout(
                tasks,
                policy=Policy(),
                phase="train",
                step=step,
                group_size=GROUP,
                sampling=Sampling(max_tokens=1),
                on_episode=keep,
            )
    await engine.close()
    expected = work.episodes * work.turns
    assert turns == expected, f"{turns} turns were played, expected {expected}"
    return turns


def _against_trl(trl_python: str) -> float | None:
    """Return how many times faster train steps are than TRL's where one tool call in ten takes ten times as long."""
    if trl_python == sys.executable and not train.has_trl():
        return None
    return round(train.against_trl(TAIL, lockbox_model(), trl_python, is_quick=False)[1], 3)


if __name__ == "__main__":
    main(sys.argv[1:])
