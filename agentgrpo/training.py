"""Training, top to bottom: evaluate, then roll out, learn, publish, look, until the steps or the hours are used up."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentgrpo.blocking import first_error, run_blocking
from agentgrpo.checkpoint import Checkpoints
from agentgrpo.config import Config, load_config
from agentgrpo.errors import RunError
from agentgrpo.evaluate import Evaluation, evaluate
from agentgrpo.learner.step import LearnResult
from agentgrpo.report import ConsoleReporter, Reporter
from agentgrpo.rollout.group import GroupResult
from agentgrpo.rollout.manager import RolloutManager
from agentgrpo.seeds import derive_seed
from agentgrpo.store.curve import draw_curve
from agentgrpo.store.episodes import EpisodeStore, TrainingRow
from agentgrpo.store.record import finish_record, start_record
from agentgrpo.store.run import Metrics, RunDirectory, write_json, write_text
from agentgrpo.summary import farewell, run_summary, train_metrics
from agentgrpo.tasks import TaskSampler
from agentgrpo.tracking import Trackers, check_trackers
from agentgrpo.types import Policy, Sampling, Task
from agentgrpo.workbench import EnvLike, TasksLike, Workbench, env_reference, prepare


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
    """What changes while a run runs."""

    bench: Workbench
    run: RunDirectory
    store: EpisodeStore
    metrics: Metrics
    manager: RolloutManager
    checkpoints: Checkpoints
    trackers: Trackers
    reporter: Reporter
    started: float
    policy: Policy = field(default_factory=Policy)
    step: int = 0
    best: float = -1.0
    episodes: int = 0
    sampled_tokens: int = 0


def train(
    config: str | Path | Mapping[str, Any] | Config,
    *,
    env: EnvLike | None = None,
    tasks: TasksLike | None = None,
    heldout: TasksLike | float | None = None,
    overrides: Sequence[str] = (),
    reporter: Reporter | None = None,
) -> Run:
    """Train an agent. Works in a script, in a notebook and behind the command line.

    Args:
        config: A TOML file, a mapping or a Config.
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
    """
    started = time.time()
    resolved = load_config(config, overrides=overrides, env=env if isinstance(env, str) else None)
    check_trackers(resolved.train.track)
    tell: Reporter = reporter or ConsoleReporter()
    bench = prepare(resolved, env=env, tasks=tasks, heldout=heldout, reporter=tell)
    return run_blocking(_train(bench, tell, started))


async def _train(bench: Workbench, reporter: Reporter, started: float) -> Run:
    config = bench.config
    run = RunDirectory.create(config.train.runs, config.name)
    _record_start(run, bench)
    reporter.message(f"run: {run.path}")
    store, metrics = EpisodeStore(run.episodes), Metrics(run.metrics)
    checkpoints = Checkpoints(folder=run.checkpoints, keep=config.train.keep_checkpoints)
    try:
        async with RolloutManager(bench.source, bench.chat, bench.engine, config.rollout, seed=config.seed) as manager:
            state = _State(
                bench=bench,
                run=run,
                store=store,
                metrics=metrics,
                manager=manager,
                checkpoints=checkpoints,
                trackers=Trackers(config, run.path),
                reporter=reporter,
                started=started,
            )
            try:
                return await _steps(state)
            except BaseException as error:
                _stop(state, error)
                raise
            finally:
                state.trackers.close()
    finally:
        await bench.engine.close()
        store.close()
        metrics.close()


def _record_start(run: RunDirectory, bench: Workbench) -> None:
    config = bench.config
    write_text(run.config, config.model_copy(update={"env": env_reference(config, bench.source)}).to_toml())
    # What a later evaluation runs on, wherever the tasks came from.
    write_text(run.heldout, "".join(f"{json.dumps(t.row, ensure_ascii=False)}\n" for t in bench.heldout_tasks))
    start_record(
        run,
        config=config.model_dump(mode="json"),
        env=type(bench.source.make().unwrapped),
        env_id=bench.source.id,
        tasks={"train": [t.row for t in bench.train_tasks], "heldout": [t.row for t in bench.heldout_tasks]},
        model_path=config.model.path,
        sampling={"train": {"temperature": config.rollout.temperature}, "eval": config.eval.model_dump(mode="json")},
    )


async def _steps(state: _State) -> Run:
    config = state.bench.config
    await state.bench.engine.publish(state.bench.policy.adapter(), state.policy)
    before = await _evaluate(state, config.eval.tasks, "before")
    sampler = TaskSampler(state.bench.train_tasks, derive_seed(config.seed, "tasks"))
    while state.step < config.train.steps and not _out_of_time(state):
        await _train_step(state, sampler)
        await _look(state)
    after = await _evaluate(state, config.eval.tasks, "after") if state.step else before
    _checkpoint(state, after)
    return _finish(state, before, after)


def _stop(state: _State, error: BaseException) -> None:
    """Keep the adapter, and say in the record how it ended, when a run ends before its time."""
    is_interrupt = isinstance(error, KeyboardInterrupt | asyncio.CancelledError)
    _checkpoint(state, None)
    finish_record(state.run, status="interrupted" if is_interrupt else "failed", cause=str(first_error(error)) or None)
    state.reporter.message(f"stopped at step {state.step}; the adapter is in {state.run.path}/checkpoints/last")


async def _train_step(state: _State, sampler: TaskSampler) -> None:
    """Roll out, learn, publish: one train step."""
    bench, config, step = state.bench, state.bench.config, state.step + 1
    clock = time.perf_counter()
    results = await _roll_out(state, sampler.next(config.rollout.tasks_per_step), step)
    rollout = time.perf_counter() - clock
    groups = [r.group for r in results if len(r.group.trajectories) >= config.rollout.min_survivors]
    if not groups:
        raise RunError(_no_survivors(results))
    learned = await asyncio.to_thread(bench.learner.step, groups)
    await state.store.set_training(_training_rows(learned))
    await _publish(state, step)
    learn = time.perf_counter() - clock - rollout
    state.step = step
    trajectories = [t for r in results for t in r.trajectories]
    metrics = train_metrics(trajectories, groups, learned) | {
        "time/rollout": rollout,
        "time/learn": learn,
        "time/elapsed": time.time() - state.started,
    }
    _write(state, metrics)
    state.reporter.step(step, config.train.steps, metrics)


async def _roll_out(state: _State, tasks: Sequence[Task], step: int) -> list[GroupResult]:
    config = state.bench.config.rollout
    with state.reporter.progress(f"step {step} rollout", len(tasks) * config.group_size) as advance:

        async def keep(result: GroupResult) -> None:
            await _store(state, result)
            advance(config.group_size)

        return await state.manager.rollout(
            tasks,
            policy=state.policy,
            phase="train",
            step=step,
            group_size=config.group_size,
            sampling=Sampling(max_tokens=config.max_turn_tokens, temperature=config.temperature),
            on_group=keep,
        )


async def _publish(state: _State, step: int) -> None:
    """Make the adapter as it is now the policy of the next step."""
    new = Policy(name=state.policy.name, version=step)
    await state.bench.engine.publish(state.bench.policy.adapter(), new)
    await state.bench.engine.retire(state.policy)
    state.policy = new


async def _store(state: _State, result: GroupResult) -> None:
    await state.store.add(result.trajectories)
    state.episodes += len(result.trajectories)
    state.sampled_tokens += sum(t.sampled_count for t in result.trajectories)


async def _look(state: _State) -> None:
    """Evaluate and write a checkpoint when it is time."""
    config, evaluation = state.bench.config, None
    is_last = state.step == config.train.steps
    if config.eval.every and state.step % config.eval.every == 0 and not is_last:
        evaluation = await _evaluate(state, config.eval.during_tasks, f"step {state.step}")
    if evaluation is not None or state.step % config.train.checkpoint_every == 0:
        _checkpoint(state, evaluation)


async def _evaluate(state: _State, limit: int | None, when: str) -> Evaluation | None:
    tasks = state.bench.heldout_tasks[:limit]
    if not tasks:
        return None
    config = state.bench.config.eval
    with state.reporter.progress(f"evaluation {when}", len(tasks)) as advance:

        async def keep(result: GroupResult) -> None:
            await _store(state, result)
            advance()

        found = await evaluate(state.manager, tasks, config, policy=state.policy, step=state.step, on_group=keep)
    state.reporter.message(f"held-out success {when}: {found}")
    _write(state, found.metrics())
    return found


def _checkpoint(state: _State, evaluation: Evaluation | None) -> None:
    success = evaluation.success if evaluation is not None else None
    # Without held-out tasks the last checkpoint is the best there is.
    is_best = not state.bench.heldout_tasks or (success is not None and success >= state.best)
    if success is not None and is_best:
        state.best = success
    trainer = {"heldout_success": success, "learner_steps": state.bench.learner.steps}
    state.checkpoints.save(state.bench.policy.adapter(), state.step, trainer, is_best=is_best)


def _finish(state: _State, before: Evaluation | None, after: Evaluation | None) -> Run:
    config = state.bench.config
    summary = run_summary(
        before,
        after,
        config=config,
        heldout_tasks=len(state.bench.heldout_tasks[: config.eval.tasks]),
        wall_seconds=time.time() - state.started,
        train_steps=state.step,
        episodes=state.episodes,
        sampled_tokens=state.sampled_tokens,
        ends=state.manager.counts.ends,
    )
    write_json(state.run.summary, summary)
    finish_record(state.run, status="finished", adapter=state.bench.policy.adapter().sha256)
    draw_curve(state.run.metrics, state.run.curve)
    names = {"renderer": state.bench.chat.renderer_name, "program": _program()}
    for line in farewell(state.run.path, config, before, after, summary, **names):
        state.reporter.message(line)
    return Run(path=state.run.path, summary=summary)


def _program() -> str:
    """Return what to type for `agentgrpo` here: its path, when the environment it is in is not activated."""
    beside = Path(sys.executable).with_name("agentgrpo")
    return "agentgrpo" if shutil.which("agentgrpo") or not beside.exists() else os.path.relpath(beside)


def _training_rows(learned: LearnResult) -> list[TrainingRow]:
    return [
        TrainingRow(
            key=d.key,
            advantage=learned.advantages.get(d.key),
            filter_reason=None if d.reason is None else str(d.reason),
        )
        for d in learned.decisions
    ]


def _write(state: _State, metrics: Mapping[str, float]) -> None:
    state.metrics.write(state.step, metrics)
    state.trackers.write(state.step, metrics)


def _out_of_time(state: _State) -> bool:
    hours = state.bench.config.train.max_hours
    return hours is not None and time.time() - state.started > hours * 3600


def _no_survivors(results: Sequence[GroupResult]) -> str:
    causes = [str(t.failure.cause) for r in results for t in r.failed if t.failure is not None]
    first = f" First cause: {causes[0]}" if causes else ""
    return f"no group kept enough scored episodes to train on ({len(causes)} attempts failed).{first}"
