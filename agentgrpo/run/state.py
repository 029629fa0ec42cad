"""What changes while a run runs, and what of it a stop at any moment falls back to."""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from agentgrpo.config.run import Config
from agentgrpo.evaluate.heldout import Evaluation
from agentgrpo.rollout.manager import RolloutManager
from agentgrpo.rollout.stream import GroupStream
from agentgrpo.run.checkpoint import Checkpoints
from agentgrpo.run.opening import Opened
from agentgrpo.run.report import Advance, LastWordReporter
from agentgrpo.run.tracking import Trackers
from agentgrpo.run.trainer_state import Progress, TrainerState
from agentgrpo.run.workbench import Workbench
from agentgrpo.store.episodes import EpisodeStore
from agentgrpo.store.run import Metrics
from agentgrpo.tasks import TaskSampler
from agentgrpo.types import EpisodeKey, Policy, Trajectory


@dataclass(slots=True, kw_only=True)
class RunState:
    """What changes while a run runs. `kept` is what a stop at any moment falls back to: the end of the last step."""

    opened: Opened
    store: EpisodeStore
    metrics: Metrics
    manager: RolloutManager
    checkpoints: Checkpoints
    reporter: LastWordReporter
    sampler: TaskSampler
    started: float
    progress: Progress
    policy: Policy
    kept: TrainerState
    finished: Mapping[EpisodeKey, Trajectory]  # of the step a resumed run goes on with
    stream: GroupStream | None = None  # of asynchronous training
    trackers: Trackers | None = None
    latest: Evaluation | None = None
    stop_lock: threading.Lock = field(default_factory=threading.Lock)
    checkpoint_lock: threading.Lock = field(default_factory=threading.Lock)
    is_ended: bool = False

    @property
    def bench(self) -> Workbench:
        return self.opened.bench

    @property
    def config(self) -> Config:
        return self.opened.bench.config

    @property
    def step(self) -> int:
        return self.progress.step

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.started

    @property
    def is_out_of_time(self) -> bool:
        hours = self.config.train.max_hours
        return hours is not None and self.elapsed > hours * 3600

    def write(self, metrics: Mapping[str, float]) -> None:
        """Write metrics of the step the run is at."""
        self.metrics.write(self.step, metrics)
        if self.trackers is not None:
            self.trackers.write(self.step, metrics)


def keeper(state: RunState, advance: Advance) -> Callable[[Trajectory], Awaitable[None]]:
    """Return what becomes of each episode that ends: stored and counted."""

    async def keep(trajectory: Trajectory) -> None:
        await store(state, trajectory)
        state.progress.count(trajectory)
        advance(int(trajectory.is_scored))

    return keep


async def store(state: RunState, trajectory: Trajectory) -> None:
    """Store an episode, unless that is where it came from."""
    if trajectory.key not in state.finished:
        with state.manager.activity.waiting(str(trajectory.key), "store"):
            await state.store.add([trajectory])
