"""(d) Asynchronous against synchronous training when learning takes as long as a rollout.

Both train the same episodes: the same tasks, lengths of replies and seconds of tools (a heavy tail). The engine's time
is modelled and learning is a sleep in a thread, since here both would share two cores; the rest is the real thing.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time

from agentgrpo.blocking import in_daemon
from agentgrpo.chat import Chat
from agentgrpo.config.run import RolloutConfig
from agentgrpo.registry import resolve_env
from agentgrpo.rollout.manager import RolloutManager
from agentgrpo.rollout.pacing import Pacing
from agentgrpo.rollout.stream import GroupStream
from agentgrpo.tasks import TaskSampler, load_tasks
from agentgrpo.types import Policy, Sampling, Trajectory
from bench.common import last_line
from bench.lockbox_model import lockbox_model
from bench.workplace import Cost, ModelledEngine, Script, Workplace, heavy_tailed

TASKS_PER_STEP, GROUP, TURNS = 8, 8, 4
PLACES = TASKS_PER_STEP * GROUP
STALENESS = 2  # what a perfect machine makes of this tail: 1.7 with 1, 1.9 with 2, 1.96 with 4 (simulated)
SCALE, QUICK_SCALE = 0.15, 0.08  # of the other parts' seconds, the engine's and the tools': shorter, nothing else
SAMPLING = Sampling(max_tokens=1)


def measure(*, quick: bool) -> float:
    """Return how many times the synchronous throughput the asynchronous one is."""
    chat = Chat.from_folder(lockbox_model(), enable_thinking=False)
    scale = QUICK_SCALE if quick else SCALE
    return round(async_vs_sync(chat, steps=3 if quick else 16, rounds=1 if quick else 3, scale=scale), 3)


def async_vs_sync(chat: Chat, *, steps: int, rounds: int, scale: float, staleness: int = STALENESS) -> float:
    """Return the median of the ratios of what was measured in the same round: train steps amid a longer run."""
    ratios = []
    for _ in range(rounds):
        synchronous, learn = asyncio.run(_synchronous(chat, steps, scale))
        asynchronous = asyncio.run(_asynchronous(chat, steps, staleness, scale, learn=learn))
        ratios.append(synchronous / asynchronous)
        print(
            f"rollout = learning = {learn:.2f} s; a train step: synchronous {synchronous:.2f} s, asynchronous "
            f"(max_staleness = {staleness}) {asynchronous:.2f} s: {ratios[-1]:.2f} x",
            flush=True,
        )
    return statistics.median(ratios)


async def _synchronous(chat: Chat, steps: int, scale: float) -> tuple[float, float]:
    """Return the seconds of a train step after the first, and of its rollout; learning takes as long as that did."""
    manager, sampler = _parts(chat, scale)
    rollouts = []
    async with manager:
        for version in range(steps):
            clock = time.perf_counter()
            if version == 1:
                started = clock
            await manager.rollout(
                sampler.next(TASKS_PER_STEP),
                policy=Policy(version=version),
                phase="train",
                step=version + 1,
                group_size=GROUP,
                sampling=SAMPLING,
            )
            rollouts.append(time.perf_counter() - clock)
            await _learn(rollouts[-1])
        seconds = time.perf_counter() - started
    await manager.engine.close()
    return seconds / (steps - 1), statistics.mean(rollouts[1:])


async def _asynchronous(chat: Chat, steps: int, staleness: int, scale: float, *, learn: float) -> float:
    """Return the seconds of a train step after the first."""
    manager, sampler = _parts(chat, scale)
    longer = steps + staleness + 1  # so that rollouts go on to the end
    pacing = Pacing(batch=TASKS_PER_STEP, group_size=GROUP, max_staleness=staleness, steps=longer)

    async def keep(trajectory: Trajectory) -> None:
        """Keep nothing."""

    async with manager, GroupStream(manager, pacing, sampler, sampling=SAMPLING, on_episode=keep) as stream:
        await stream.go_on(Policy(version=0))
        for version in range(steps):
            if version == 1:
                started = time.perf_counter()
            await stream.take()
            await _learn(learn)
            await stream.go_on(Policy(version=version + 1))
        seconds = time.perf_counter() - started
    await manager.engine.close()
    return seconds / (steps - 1)


def _parts(chat: Chat, scale: float) -> tuple[RolloutManager, TaskSampler]:
    script = Script(chat, lambda rng: scale * heavy_tailed(rng), turns=TURNS)
    cost = Cost(step=scale * Cost().step, sequence=scale * Cost().sequence)
    engine = ModelledEngine(script=script, cost=cost)
    source = resolve_env(Workplace)
    config = RolloutConfig(concurrency=PLACES, max_turns=TURNS, tool_seconds=300.0)
    return RolloutManager(source, chat, engine, config, seed=0), TaskSampler(load_tasks(source.tasks("train")), seed=0)


async def _learn(seconds: float) -> None:
    await in_daemon(lambda: time.sleep(seconds), "learner")


if __name__ == "__main__":
    last_line({"async_vs_sync": measure(quick="--quick" in sys.argv)})
