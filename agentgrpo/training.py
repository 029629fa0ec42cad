"""Training, top to bottom: look, then roll out, learn, publish, look, until the steps or the hours are used up.

A run that was stopped or killed goes on from its newest checkpoint as if nothing had happened.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, nullcontext
from pathlib import Path
from typing import Any

from agentgrpo.activity import Activity
from agentgrpo.blocking import have_daemons_ended, in_daemon, run_blocking
from agentgrpo.config.run import Config
from agentgrpo.engines import HasMetrics
from agentgrpo.engines.proof import Proof, proof_metrics
from agentgrpo.errors import ConfigError, EngineFailure, RunError
from agentgrpo.learner.step import LearnerState, LearnResult
from agentgrpo.rollout.manager import RolloutManager
from agentgrpo.run.checkpoint import Checkpoints
from agentgrpo.run.ending import Run, finish, stop
from agentgrpo.run.gathering import gather, open_stream, pace_metrics
from agentgrpo.run.looks import look
from agentgrpo.run.opening import Given, Opened, begin, reopen
from agentgrpo.run.report import ConsoleReporter, LastWordReporter, Reporter
from agentgrpo.run.rewarding import opened_scorer
from agentgrpo.run.state import RunState
from agentgrpo.run.stopping import Stopping
from agentgrpo.run.summary import no_survivors, score_metrics, train_metrics, training_rows
from agentgrpo.run.tracking import Trackers
from agentgrpo.run.trainer_state import TrainerState
from agentgrpo.run.watchdog import Watchdog
from agentgrpo.run.workbench import EnvLike, TasksLike
from agentgrpo.seeds import derive_seed
from agentgrpo.store.episodes import EpisodeStore
from agentgrpo.store.record import settle_record
from agentgrpo.store.run import Metrics
from agentgrpo.store.train_steps import TrainStep
from agentgrpo.tasks import TaskSampler
from agentgrpo.types import Adapter, Group, Policy


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


async def _train(opened: Opened, tell: Reporter, stopping: Stopping, started: float) -> Run:
    bench, run, config, reporter = opened.bench, opened.run, opened.bench.config, LastWordReporter(tell)
    reporter.message(f"run: {run.path}")
    async with AsyncExitStack() as stack:
        stack.push_async_callback(bench.engine.close)
        episodes = stack.enter_context(EpisodeStore(run.episodes))
        metrics = stack.enter_context(Metrics(run.metrics, size=opened.progress.metrics_bytes))
        activity = Activity(reporter.message)
        scorer = stack.enter_context(opened_scorer(bench.rewarding, run.verdicts, activity=activity, keep=episodes.add))
        manager = RolloutManager(
            bench.source, bench.chat, bench.engine, config.rollout, seed=config.seed, activity=activity, scorer=scorer
        )
        bench.learner.on_microbatch = activity.beat
        await stack.enter_async_context(manager)
        sampler = TaskSampler(bench.train_tasks, derive_seed(config.seed, "tasks"))
        if opened.progress.sampler is not None:
            sampler.restore(opened.progress.sampler)
        state = RunState(
            opened=opened,
            store=episodes,
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
        if config.train.max_staleness:
            state.stream = await stack.enter_async_context(open_stream(state))
        stopping.attach(lambda: stop(state, KeyboardInterrupt()))
        watchdog = Watchdog(
            activity, run.path, config.train, tell=reporter.message, last_words=lambda c: stop(state, RunError(c))
        )
        try:
            state.trackers = Trackers(config, run.path)
            stack.callback(state.trackers.close)
            async with watchdog:
                return await _steps(state)
        except EngineFailure as error:  # outside any episode: of a version retired, or memory given back
            failed = RunError(f"the engine broke: {error}")
            stop(state, failed)
            raise failed from error
        except BaseException as error:
            stop(state, error)
            raise


async def _steps(state: RunState) -> Run:
    _keep_state(state, state.kept.adapter, state.kept.learner)
    await state.bench.publish(state.kept.adapter, state.policy)
    if state.stream is not None:
        await state.stream.go_on(state.policy)
    is_over = await look(state)
    while not is_over:
        await _train_step(state)
        is_over = await look(state)
    return finish(state)


async def _train_step(state: RunState) -> None:
    """Roll out, learn, publish: one train step."""
    config, step, clock = state.config, state.step + 1, time.perf_counter()
    results = await gather(state, step)
    rollout = time.perf_counter() - clock
    groups = [r.group for r in results if r.group.trajectories]
    if all(len(group.trajectories) < config.rollout.min_survivors for group in groups):
        raise RunError(no_survivors(results))
    learned, adapter, learner = await _learn(state, groups)
    made = TrainStep.of(step, groups, adapter.sha256)
    await state.store.set_training([*training_rows(learned), made])
    proofs = await _publish(state, adapter, step)
    learn = time.perf_counter() - clock - rollout
    state.progress.step = step
    episodes = [t for r in results for t in r.trajectories]
    metrics = train_metrics(episodes, groups, learned, state.bench.source.id) | {
        "time/rollout": rollout,
        "time/learn": learn,
        "time/elapsed": state.elapsed,
    }
    engine = state.bench.engine
    metrics |= engine.metrics() if isinstance(engine, HasMetrics) else {}
    metrics |= proof_metrics(proofs) | pace_metrics(state, results, step - 1) | state.manager.activity.metrics()
    if state.manager.scorer is not None:
        metrics |= score_metrics(results) | state.manager.scorer.metrics()
    state.write(metrics)
    _keep_state(state, adapter, learner)
    state.reporter.step(step, config.train.steps, metrics)
    if learned.note is not None:
        state.reporter.message(f"step {step}: {learned.note}")


async def _learn(state: RunState, groups: Sequence[Group]) -> tuple[LearnResult, Adapter, LearnerState]:
    """Make the train step and copy what came of it, in a thread that stops at the next microbatch of a stopped run."""
    is_over, bench = threading.Event(), state.bench

    def learn() -> tuple[LearnResult, Adapter, LearnerState]:
        return bench.learner.step(groups, is_over), bench.policy.adapter(), bench.learner.state()

    state.manager.activity.enter("learn")
    try:
        async with bench.engine.stand_by() if state.stream is None else nullcontext():
            return await in_daemon(learn, "agentgrpo-learner")
    finally:
        is_over.set()


async def _publish(state: RunState, adapter: Adapter, step: int) -> tuple[Proof, ...]:
    """Make the adapter the policy of the next step."""
    new, activity = Policy(name=state.policy.name, version=step), state.manager.activity
    activity.enter("publish")
    with activity.waiting(str(new), "publish"):
        proofs = await state.bench.publish(adapter, new)
    if state.stream is not None:
        await state.stream.go_on(new)
    else:
        with activity.waiting(str(state.policy), "retire"):
            await state.bench.engine.retire(state.policy)
    state.policy = new
    return proofs


def _keep_state(state: RunState, adapter: Adapter, learner: LearnerState) -> None:
    """Copy what the run is now, at the end of a step: whatever happens next, this is what is not lost."""
    progress = state.progress
    progress.sampler, progress.metrics_bytes = state.sampler.state(), state.metrics.size
    progress.stream = state.stream.state() if state.stream is not None else None
    progress.elapsed = state.elapsed
    state.kept = TrainerState(progress=progress.copy(), adapter=adapter, learner=learner)
