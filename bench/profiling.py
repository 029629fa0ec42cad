"""Where the time of a train step goes: `python -m bench profile [--quick]`.

CPU seconds of each part, of whatever thread it runs in, without the parts inside it. What waits costs nothing here;
the line "rest" is what is left of the process's CPU time: the event loop, the episodes' own code, the collector.
"""

from __future__ import annotations

import functools
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from agentgrpo.chat import Chat
from agentgrpo.engines import passes
from agentgrpo.engines.decode import DecodeLoop
from agentgrpo.engines.embedded import EmbeddedEngine
from agentgrpo.engines.versions import PolicyVersions
from agentgrpo.learner import step as learner_step
from agentgrpo.learner.policy import LoraPolicy
from agentgrpo.learner.step import Learner
from agentgrpo.rollout.places import Seat
from agentgrpo.run.report import SilentReporter
from agentgrpo.store.episodes import EpisodeStore
from agentgrpo.training import train
from bench.common import last_line, report
from bench.lockbox_model import lockbox_model
from bench.our_side import configuration
from bench.train import CASES, Case, settings_of

PARTS: tuple[tuple[str, Any, str], ...] = (
    ("engine: forward passes", passes, "run_pass"),
    ("engine: sampling", DecodeLoop, "_sample"),
    ("engine: who runs next", DecodeLoop, "step"),
    ("engine: requests", EmbeddedEngine, "_send"),
    ("chat: first prompts", Chat, "render"),
    ("chat: read replies", Chat, "parse"),
    ("chat: extend prompts", Chat, "extend"),
    ("environment", Seat, "call"),
    ("store", EpisodeStore, "_write"),
    ("learner: forward", LoraPolicy, "logprobs"),
    ("learner: backward", torch.Tensor, "backward"),
    ("learner: optimizer", torch.optim.AdamW, "step"),
    ("learner: rows", learner_step, "pack"),
    ("learner: the rest", Learner, "step"),
    ("publish: copy the adapter", LoraPolicy, "adapter"),
    ("publish: load it", PolicyVersions, "add"),
)
WARM_UP = 3


class _Enough(BaseException):
    """Ends the training: every step that was wanted is made."""


class Clocks:
    """CPU seconds by part, each part without those inside it."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self._inside = threading.local()

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, its own time added to a part."""

        @functools.wraps(function)
        def run(*arguments: Any, **options: Any) -> Any:
            stack: list[float] = self._inside.__dict__.setdefault("stack", [])
            stack.append(0.0)
            clock = time.thread_time()
            try:
                return function(*arguments, **options)
            finally:
                took = time.thread_time() - clock
                self.seconds[part] += took - stack.pop()
                self.calls[part] += 1
                if stack:
                    stack[-1] += took

        return run


class _Counting(SilentReporter):
    """Takes the clocks' reading after the first steps and at the end."""

    def __init__(self, clocks: Clocks, steps: int) -> None:
        self.clocks, self._steps = clocks, steps
        self.wall = self.cpu = 0.0
        self.parts: Mapping[str, float] = {}

    def step(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        """Count one train step."""
        if step == WARM_UP:
            self.clocks.seconds.clear()
            self.clocks.calls.clear()
            self._wall, self._cpu = time.perf_counter(), time.process_time()
        if step == WARM_UP + self._steps:
            self.wall = (time.perf_counter() - self._wall) / self._steps
            self.cpu = (time.process_time() - self._cpu) / self._steps
            self.parts = {name: s / self._steps for name, s in self.clocks.seconds.items()}
            raise _Enough


def main(*, quick: bool = False) -> None:
    """Print and write seconds by part, for each of the comparison's workloads."""
    torch.set_num_threads(1)
    clocks = Clocks()
    for part, owner, name in PARTS:
        setattr(owner, name, clocks.timed(part, getattr(owner, name)))
    rows: list[tuple[Any, ...]] = []
    walls = {}
    for case in CASES[:1] if quick else CASES:
        found = _profile(case, clocks, 8 if quick else 15)
        rows += _rows(case, found)
        walls[f"{case.name}, {1000 * case.latency:g} ms"] = round(found.wall, 4)
    report("profile", ("groups x G x turns", "tool ms", "part", "calls/step", "CPU ms/step", "share %"), rows)
    last_line({"wall_s_per_step": walls})


def _profile(case: Case, clocks: Clocks, steps: int) -> _Counting:
    counting = _Counting(clocks, steps)
    with tempfile.TemporaryDirectory(prefix="agentgrpo-bench-") as folder:
        try:
            train(configuration(settings_of(case, lockbox_model()), Path(folder)), reporter=counting)
        except _Enough:
            return counting
    raise SystemExit("the training ended before its time")


def _rows(case: Case, found: _Counting) -> list[tuple[Any, ...]]:
    parts = {**dict.fromkeys((part for part, _, _ in PARTS), 0.0), **found.parts}
    parts["rest"] = found.cpu - sum(parts.values())
    steps = found._steps
    return [
        (
            *(case.name, f"{1000 * case.latency:g}", part, f"{found.clocks.calls[part] / steps:.0f}"),
            *(1000 * seconds, 100 * seconds / found.cpu),
        )
        for part, seconds in sorted(parts.items(), key=lambda item: -item[1])
    ]


if __name__ == "__main__":
    main()
