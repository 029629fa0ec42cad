"""The rollout path against what it could be at best: `python -m bench rollout [--quick] [--trl-python PATH]`.

(b) CPU time per turn of everything that is not the engine; (c) episodes per second as a fraction of the ideal, for
tools without latency, with a constant one and with a heavy tail; beside TRL's with a tail. The parts that need vLLM or
the learner are modules of their own, null where they are not there.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib
import importlib.util
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from agentgrpo.chat import Chat
from agentgrpo.config import RolloutConfig
from agentgrpo.registry import EnvSource, resolve_env
from agentgrpo.rollout.manager import RolloutManager
from agentgrpo.store.episodes import EpisodeStore
from agentgrpo.tasks import load_tasks
from agentgrpo.types import Policy, Sampling, Task, Trajectory
from bench import train
from bench.common import last_line, report
from bench.ideal import makespan
from bench.lockbox_model import lockbox_model
from bench.workplace import Cost, Desk, Draw, ModelledEngine, Script, Workplace, at_once, constant, heavy_tailed

TURNS = 6
GROUP = 8
CROWD = 512  # episodes at once, for the CPU time of a turn
PLACES = 64  # episodes at once, beside the ideal
QUICK_ENGINE = Cost(step=0.001, sequence=0.0)  # for the CPU time of a turn: the less it waits, the sooner it is known
LATENCIES: dict[str, Draw] = {"none": at_once, "constant": constant, "heavy": heavy_tailed}
TAIL = train.Case(groups=2, group_size=8, turns=4, latency=0.05, slow_share=0.1, rounds=3)
# Measured by a module of their own: `measure(quick: bool) -> float | None`.
ELSEWHERE = {
    "vs_bare_vllm": "bench.rollout_vllm",
    "async_vs_sync": "bench.rollout_async",
    "publish_ms": "bench.rollout_publish",
}
HEADINGS = ("part", "episodes", "at once", "turns", "seconds", "ideal s", "CPU ms/turn", "of the ideal")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One rollout."""

    seconds: float
    cpu: float  # without the engine's
    turns: int
    ideal: float


def main(arguments: Sequence[str] = ()) -> None:
    """Print and write what was found."""
    parser = argparse.ArgumentParser(prog="python -m bench rollout")
    parser.add_argument("--quick", action="store_true", help="fewer episodes, one round, without TRL")
    parser.add_argument("--trl-python", default=sys.executable, help="the Python that has TRL")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    chat, quick = Chat.from_folder(lockbox_model(), enable_thinking=False), bool(options.quick)
    rows: list[Sequence[Any]] = []
    cpu = _cpu_per_turn(chat, rows, rounds=1 if quick else 3)
    fractions = _fractions(chat, rows, episodes=PLACES + PLACES // 2 if quick else 6 * PLACES, rounds=1 if quick else 3)
    summary: dict[str, Any] = {"vs_bare_vllm": None, "cpu_ms_per_turn": cpu, "ideal_fraction": fractions}
    summary["vs_trl_heavy"] = None if quick else _against_trl(options.trl_python)
    summary |= {name: _elsewhere(module, quick=quick) for name, module in ELSEWHERE.items()}
    report("rollout", HEADINGS, rows, summary=summary)
    last_line(summary)


def _cpu_per_turn(chat: Chat, rows: list[Sequence[Any]], *, rounds: int) -> float:
    """Return CPU milliseconds per turn, the engine's left out, of an environment in the event loop.

    The table has those of one with `async def` tools as well, whose steps change threads four times a turn. The first
    round warms up and is not counted.
    """
    medians = []
    for name, env in (("CPU, env in the loop", Desk), ("CPU, env in threads", Workplace)):
        found = [
            _roll_out(chat, env, at_once, QUICK_ENGINE, episodes=CROWD, places=CROWD, step=n) for n in range(rounds + 1)
        ]
        median = statistics.median(1000 * m.cpu / m.turns for m in found[1:])
        rows.append((name, CROWD, CROWD, found[-1].turns, found[-1].seconds, "", median, ""))
        medians.append(median)
    return round(medians[0], 3)


def _fractions(chat: Chat, rows: list[Sequence[Any]], *, episodes: int, rounds: int) -> dict[str, float]:
    """Return how near episodes per second come to the ideal, for each kind of tool latency."""
    fractions = {}
    for name, draw in LATENCIES.items():
        found = [
            _roll_out(chat, Workplace, draw, Cost(), episodes=episodes, places=PLACES, step=number)
            for number in range(rounds)
        ]
        middle = sorted(found, key=lambda m: m.ideal / m.seconds)[len(found) // 2]
        fraction = middle.ideal / middle.seconds
        cpu = 1000 * middle.cpu / middle.turns
        rows.append((name, episodes, PLACES, middle.turns, middle.seconds, middle.ideal, cpu, fraction))
        fractions[name] = round(fraction, 3)
    return fractions


def _roll_out(
    chat: Chat, env: type[Workplace], draw: Draw, cost: Cost, *, episodes: int, places: int, step: int
) -> Measured:
    """Run episodes through the whole path, the store included, and simulate them without overhead."""
    script = Script(chat, draw, turns=TURNS, seed=step)
    engine = ModelledEngine(script=script, cost=cost)
    source = resolve_env(env)
    tasks = load_tasks(source.tasks("train"))[: episodes // GROUP]
    gc.collect()
    cpu, clock = time.process_time(), time.perf_counter()
    turns = asyncio.run(_play(source, chat, engine, tasks, places, step))
    seconds, cpu = time.perf_counter() - clock, time.process_time() - cpu
    ideal = makespan(script.plans.values(), cost, places)
    return Measured(seconds=seconds, cpu=cpu - engine.cpu, turns=turns, ideal=ideal)


async def _play(
    source: EnvSource, chat: Chat, engine: ModelledEngine, tasks: Sequence[Task], places: int, step: int
) -> int:
    config = RolloutConfig(concurrency=places, max_turns=TURNS, tool_seconds=300.0)
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
    expected = len(tasks) * GROUP * TURNS
    assert turns == expected, f"{turns} turns were played, expected {expected}"
    return turns


def _against_trl(trl_python: str) -> float | None:
    """Return how many times faster train steps are than TRL's where one tool call in ten takes ten times as long."""
    if trl_python == sys.executable and not train.has_trl():
        return None
    return round(train.against_trl(TAIL, lockbox_model(), trl_python, is_quick=False)[1], 3)


def _elsewhere(module: str, *, quick: bool) -> float | None:
    """Return what a module of its own measures; None where it is not there, or finds that it cannot."""
    if importlib.util.find_spec(module) is None:
        return None
    found: float | None = importlib.import_module(module).measure(quick=quick)
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
