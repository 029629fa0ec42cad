"""How a run ends: stopped, with what its last whole step made, or finished, with what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentgrpo.blocking import first_error
from agentgrpo.errors import AgentGRPOError
from agentgrpo.run.looks import write_checkpoint
from agentgrpo.run.opening import program
from agentgrpo.run.state import RunState
from agentgrpo.run.summary import farewell, run_summary
from agentgrpo.store.curve import draw_curve
from agentgrpo.store.reader import EpisodeReader
from agentgrpo.store.record import finish_record
from agentgrpo.store.run import write_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A finished run: where it is and what came of it."""

    path: Path
    summary: Mapping[str, Any]

    @property
    def adapter(self) -> Path:
        """The folder of the best adapter; it loads in plain peft."""
        return (self.path / "checkpoints" / "best").resolve()


def stop(state: RunState, error: BaseException) -> None:
    """Keep what the last whole step made, and say how it ended and how to go on, before its time."""
    with state.stop_lock:  # the watch over a stop that takes too long may come here as well
        if state.is_ended:
            return
        state.is_ended = True
        cause = first_error(error)
        is_interrupt = isinstance(cause, KeyboardInterrupt | SystemExit | asyncio.CancelledError)
        status = "interrupted" if is_interrupt else "failed"
        step, path = state.kept.progress.step, state.opened.run.path
        saved = f"saved in {path}/checkpoints/last"
        try:
            write_checkpoint(state)
        except (AgentGRPOError, OSError) as problem:
            saved = f"not saved: {problem}"
        try:
            finish_record(state.opened.run, status=status, cause=str(cause) or None)
        except (AgentGRPOError, OSError) as problem:
            state.reporter.message(str(problem))
        state.reporter.last_words(f"stopped after step {step}, {saved}", f"go on with: {state.opened.resume_command}")


def finish(state: RunState) -> Run:
    """Write down what came of the run, and say what to type next."""
    config, run, progress = state.config, state.opened.run, state.progress
    before, after = progress.before, state.latest
    summary = run_summary(
        before,
        after,
        config=config,
        heldout_tasks=len(state.bench.heldout_tasks[: config.eval.tasks]),
        wall_seconds=state.elapsed,
        train_steps=progress.step,
        episodes=progress.episodes,
        sampled_tokens=progress.sampled_tokens,
        ends=progress.ends,
        troubles=state.manager.activity.troubles,
        groups_cut=progress.cut,
    )
    write_json(run.summary, summary)
    draw_curve(run.metrics, run.curve)
    finish_record(run, status="finished", adapter=state.kept.adapter.sha256)
    state.is_ended = True
    with EpisodeReader(run.episodes) as reader:
        facets = reader.facets("eval", progress.step, progress.step)
    names = {"renderer": state.bench.chat.renderer_name, "program": program()}
    for line in farewell(run.path, config, before, after, summary, facets=facets, **names):
        state.reporter.message(line)
    return Run(path=run.path, summary=summary)
