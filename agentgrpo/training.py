"""Training, top to bottom: look, then roll out, learn, publish, look, until the steps or the hours are used up.

A run that was stopped or killed goes on from its newest checkpoint as if nothing had happened.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentgrpo.activity import Activity
from agentgrpo.blocking import first_error, have_daemons_ended, in_daemon, run_blocking
from agentgrpo.checkpoint import Checkpoints
from agentgrpo.config import Config
from agentgrpo.errors import AgentGRPOError, ConfigError, RunError
from agentgrpo.evaluate import Evaluation, evaluate
from agentgrpo.learner.step import LearnResult
from agentgrpo.opening import Given, Opened, begin, program, reopen
from agentgrpo.report import Advance, ConsoleReporter, Reporter
from agentgrpo.rollout.group import GroupResult
from agentgrpo.rollout.manager import RolloutManager
from agentgrpo.seeds import derive_seed
from agentgrpo.stopping import Stopping
from agentgrpo.store.curve import draw_curve
from agentgrpo.store.episodes import EpisodeStore
from agentgrpo.store.record import finish_record, settle_record, versions
from agentgrpo.store.run import Metrics, write_json
from agentgrpo.summary import farewell, no_survivors, run_summary, train_metrics, training_rows
from agentgrpo.tasks import TaskSampler
from agentgrpo.tracking import Trackers
from agentgrpo.trainer_state import Progress, TrainerState
from agentgrpo.types import Adapter, EpisodeKey, Group, Policy, Sampling, Task, Trajectory
from agentgrpo.watchdog import Watchdog
from agentgrpo.workbench import EnvLike, TasksLike, Workbench


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A finished run: where it is and what came of it."""

    path: Path
    summary: Mapping[str, Any]

    @property
    def adapter(self) -> Path:
        """The folder of the best adapter; it loads in plain peft."""
        return (self.path / "checkpoints" / "best").resolve()


@dataclass(slots=True, kw_only=True)
class _State:
    """What changes while a run runs. `kept` is what a stop at any moment falls back to: the end of the last step."""

    opened: Opened
    store: EpisodeStore
    metrics: Metrics
    manager: RolloutManager
    checkpoints: Checkpoints
    reporter: Reporter
    sampler: TaskSampler
    started: float
    progress: Progress
    policy: Policy
    kept: TrainerState
    finished: Mapping[EpisodeKey, Trajectory]  # of the step a resumed run goes on with
    trackers: Trackers | None = None
    latest: Evaluation | None = None
    stop_lock: threading.Lock = field(default_factory=threading.Lock)
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


def train(
    config: str | Path | Mapping[str, Any] | Config | None = None,
    *,
    resume: str | Path | None = None,
    env: EnvLike | None = None,
    tasks: TasksLike | None = None,
    heldout: TasksLike | float | None = None,
    overrides: Sequence[str] = (),
    reporter: Reporter | None = None,
) -> Run:
    """Train an agent. Works in a script, in a notebook and behind the command line.

    Ctrl-C and SIGTERM write a checkpoint of the last whole step and end the run; `resume` goes on from there.

    Args:
        config: A TOML file, a mapping or a Config; not needed to resume.
        resume: The folder of a run that was stopped or killed: it goes on as if it had not been.
        env: An environment class, or the name of one; replaces the config's.
        tasks: Training tasks: a file, a data set or rows; replaces the config's.
        heldout: Held-out tasks likewise, or how many (a fraction or a number) to split off.
        overrides: "section.key=value" strings.
        reporter: Where progress goes; the terminal by default.

    Returns:
        The run: its directory and summary.

    Raises:
        UserError: something in the config, the environment or the tasks must be mended.
        RunError: the run could not go on.
        KeyboardInterrupt: Ctrl-C ended the run. SIGTERM raises SystemExit.
    """
    started = time.monotonic()
    if config is None and resume is None:
        raise ConfigError("nothing to train: give a config, or resume= the folder of a run")
    tell: Reporter = reporter or ConsoleReporter()
    given = Given(config=config, env=env, tasks=tasks, heldout=heldout, overrides=overrides)
    with Stopping() as stopping:
        opened = begin(given, tell) if resume is None else reopen(resume, given, tell)
        with opened.lock:
            try:
                return run_blocking(_train(opened, tell, stopping, started - opened.progress.elapsed))
            except asyncio.CancelledError:
                outcome = stopping.outcome()
                if outcome is None:
                    raise
                if not have_daemons_ended(seconds=2.0):
                    stopping.exit_process()
                raise outcome from None
            finally:
                settle_record(opened.run)


async def _train(opened: Opened, reporter: Reporter, stopping: Stopping, started: float) -> Run:
    bench, run, config = opened.bench, opened.run, opened.bench.config
    reporter.message(f"run: {run.path}")
    async with AsyncExitStack() as stack:
        stack.push_async_callback(bench.engine.close)
        store = stack.enter_context(EpisodeStore(run.episodes))
        metrics = stack.enter_context(Metrics(run.metrics, size=opened.progress.metrics_bytes))
        activity = Activity(reporter.message)
        manager = RolloutManager(
            bench.source, bench.chat, bench.engine, config.rollout, seed=config.seed, activity=activity
        )
        bench.learner.on_microbatch = activity.beat
        await stack.enter_async_context(manager)
        sampler = TaskSampler(bench.train_tasks, derive_seed(config.seed, "tasks"))
        if opened.progress.sampler is not None:
            sampler.restore(opened.progress.sampler)
        state = _State(
            opened=opened,
            store=store,
            metrics=metrics,
            manager=manager,
            checkpoints=Checkpoints(folder=run.checkpoints, keep=config.train.keep_checkpoints),
            reporter=reporter,
            sampler=sampler,
            started=started,
            progress=opened.progress,
            policy=Policy(version=opened.progress.step),
            kept=TrainerState(progress=opened.progress, adapter=bench.policy.adapter(), learner=bench.learner.state()),
            finished=opened.finished,
        )
        stopping.attach(lambda: _stop(state, KeyboardInterrupt()))
        watchdog = Watchdog(
            activity, run.path, config.train, tell=reporter.message, last_words=lambda c: _stop(state, RunError(c))
        )
        try:
            state.trackers = Trackers(config, run.path)
            stack.callback(state.trackers.close)
            async with watchdog:
                return await _steps(state)
        except BaseException as error:
            _stop(state, error)
            raise


async def _steps(state: _State) -> Run:
    _keep_state(state, state.kept.adapter)
    await state.bench.engine.publish(state.kept.adapter, state.policy)
    is_over = await _look(state)
    while not is_over:
        await _train_step(state)
        is_over = await _look(state)
    return _finish(state)


async def _train_step(state: _State) -> None:
    """Roll out, learn, publish: one train step."""
    config, step, clock = state.config, state.step + 1, time.perf_counter()
    results = await _roll_out(state, state.sampler.next(config.rollout.tasks_per_step), step)
    rollout = time.perf_counter() - clock
    groups = [r.group for r in results if r.group.trajectories]
    if all(len(group.trajectories) < config.rollout.min_survivors for group in groups):
        raise RunError(no_survivors(results))
    learned = await _learn(state, groups)
    await state.store.set_training(training_rows(learned))
    adapter = state.bench.policy.adapter()
    await _publish(state, adapter, step)
    learn = time.perf_counter() - clock - rollout
    state.progress.step = step
    metrics = train_metrics([t for r in results for t in r.trajectories], groups, learned) | {
        "time/rollout": rollout,
        "time/learn": learn,
        "time/elapsed": state.elapsed,
    }
    metrics |= state.manager.activity.metrics()
    _write(state, metrics)
    _keep_state(state, adapter)
    state.reporter.step(step, config.train.steps, metrics)
    if learned.note is not None:
        state.reporter.message(f"step {step}: {learned.note}")


async def _roll_out(state: _State, tasks: Sequence[Task], step: int) -> list[GroupResult]:
    config = state.config.rollout
    state.manager.activity.enter("rollout")
    with state.reporter.progress(f"step {step} rollout", len(tasks) * config.group_size) as advance:
        return await state.manager.rollout(
            tasks,
            policy=state.policy,
            phase="train",
            step=step,
            group_size=config.group_size,
            sampling=Sampling(max_tokens=config.max_turn_tokens, temperature=config.temperature),
            on_episode=_keeper(state, advance),
            finished=state.finished,
        )


def _keeper(state: _State, advance: Advance) -> Callable[[Trajectory], Awaitable[None]]:
    """Return what becomes of each episode that ends: stored, unless that is where it came from, and counted."""

    async def keep(trajectory: Trajectory) -> None:
        if trajectory.key not in state.finished:
            with state.manager.activity.waiting(str(trajectory.key), "store"):
                await state.store.add([trajectory])
        state.progress.count(trajectory)
        advance(int(trajectory.is_scored))

    return keep


async def _learn(state: _State, groups: Sequence[Group]) -> LearnResult:
    """Make the train step, in a thread that stops at the next microbatch when the run is stopped."""
    stop = threading.Event()
    state.manager.activity.enter("learn")
    try:
        return await in_daemon(lambda: state.bench.learner.step(groups, stop), "agentgrpo-learner")
    finally:
        stop.set()


async def _publish(state: _State, adapter: Adapter, step: int) -> None:
    """Make the adapter the policy of the next step."""
    new, activity = Policy(name=state.policy.name, version=step), state.manager.activity
    activity.enter("publish")
    with activity.waiting(str(new), "publish"):
        await state.bench.engine.publish(adapter, new)
    with activity.waiting(str(state.policy), "retire"):
        await state.bench.engine.retire(state.policy)
    state.policy = new


def _keep_state(state: _State, adapter: Adapter) -> None:
    """Copy what the run is now, at the end of a step: whatever happens next, this is what is not lost."""
    progress = state.progress
    progress.sampler, progress.metrics_bytes = state.sampler.state(), state.metrics.size
    progress.elapsed = state.elapsed
    state.kept = TrainerState(progress=progress.copy(), adapter=adapter, learner=state.bench.learner.state())


async def _look(state: _State) -> bool:
    """Write a checkpoint and evaluate when it is time; return whether the run is over."""
    config, step = state.config, state.step
    is_over = step >= config.train.steps or _out_of_time(state)
    is_due = bool(config.eval.every) and step % config.eval.every == 0
    if step == 0 or is_over or is_due or step % config.train.checkpoint_every == 0:
        _checkpoint(state)
    if step == 0 or is_over:
        when = "after" if step else "before"
        state.latest = await _evaluate(state, config.eval.tasks, when)
    elif is_due:
        state.latest = await _evaluate(state, config.eval.during_tasks, f"step {step}")
    else:
        return is_over
    if step == 0:
        state.progress.before = state.latest
    if step or is_over:
        _judge(state)
    return is_over


async def _evaluate(state: _State, limit: int | None, when: str) -> Evaluation | None:
    tasks, config = state.bench.heldout_tasks[:limit], state.config.eval
    if not tasks:
        return None
    state.manager.activity.enter("evaluation")
    with state.reporter.progress(f"evaluation {when}", len(tasks) * config.samples) as advance:
        found = await evaluate(
            state.manager,
            tasks,
            config,
            policy=state.policy,
            step=state.step,
            on_episode=_keeper(state, advance),
            finished=state.finished,
        )
    state.reporter.message(f"held-out success {when}: {found}")
    _write(state, found.metrics())
    return found


def _checkpoint(state: _State) -> None:
    """Write what the run was at the end of the last step, which nothing has changed since."""
    state.manager.activity.enter("checkpoint")
    state.metrics.sync()
    kept = state.kept
    state.checkpoints.save(kept.progress.step, kept.write, config=state.opened.config_hash, versions=versions())
    if not state.bench.heldout_tasks:  # then the last checkpoint is the best there is
        state.checkpoints.mark_best(kept.progress.step)


def _judge(state: _State) -> None:
    """Let the checkpoint that was evaluated be the best one, if it is."""
    success = state.latest.success if state.latest is not None else None
    if success is not None and success >= (state.progress.best or 0.0):
        state.progress.best = success
        state.checkpoints.mark_best(state.step)


def _stop(state: _State, error: BaseException) -> None:
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
            _checkpoint(state)
        except (AgentGRPOError, OSError) as problem:
            saved = f"not saved: {problem}"
        try:
            finish_record(state.opened.run, status=status, cause=str(cause) or None)
        except (AgentGRPOError, OSError) as problem:
            state.reporter.message(str(problem))
        state.reporter.message(f"stopped after step {step}, {saved}")
        state.reporter.message(f"go on with: {state.opened.resume_command}")


def _finish(state: _State) -> Run:
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
    )
    write_json(run.summary, summary)
    draw_curve(run.metrics, run.curve)
    finish_record(run, status="finished", adapter=state.kept.adapter.sha256)
    state.is_ended = True
    names = {"renderer": state.bench.chat.renderer_name, "program": program()}
    for line in farewell(run.path, config, before, after, summary, **names):
        state.reporter.message(line)
    return Run(path=run.path, summary=summary)


def _write(state: _State, metrics: Mapping[str, float]) -> None:
    state.metrics.write(state.step, metrics)
    if state.trackers is not None:
        state.trackers.write(state.step, metrics)


def _out_of_time(state: _State) -> bool:
    hours = state.config.train.max_hours
    return hours is not None and state.elapsed > hours * 3600
