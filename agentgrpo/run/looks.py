"""The looks a run takes at itself between train steps: checkpoints, evaluations, and which of them was the best."""

from __future__ import annotations

from agentgrpo.blocking import in_daemon
from agentgrpo.evaluate.heldout import Evaluation, evaluate
from agentgrpo.run.state import RunState, keeper
from agentgrpo.store.record import versions


async def look(state: RunState) -> bool:
    """Write a checkpoint and evaluate when it is time; return whether the run is over."""
    config, step = state.config, state.step
    is_over = step >= config.train.steps or state.is_out_of_time
    is_due = bool(config.eval.every) and step % config.eval.every == 0
    if is_over and state.stream is not None:
        for trajectory in await state.stream.close():  # the hours are used up: nobody trains these any more
            state.progress.count(trajectory)
    if step == 0 or is_over or is_due or step % config.train.checkpoint_every == 0:
        await _checkpoint(state)
    if step == 0 or is_over:
        when = "after" if step else "before"
        state.latest = await _evaluate(state, config.eval.tasks, when)
    elif is_due:
        state.latest = await _evaluate(state, config.eval.tasks_between, f"step {step}")
    else:
        return is_over
    if step == 0:
        state.progress.before = state.latest
    if step or is_over:
        _judge(state)
    return is_over


async def _evaluate(state: RunState, limit: int | None, when: str) -> Evaluation | None:
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
            on_episode=keeper(state, advance),
            finished=state.finished,
            common=config.tasks_between if config.every else None,
        )
    state.reporter.message(f"held-out success {when}: {found}")
    state.write(found.metrics())
    return found


async def _checkpoint(state: RunState) -> None:
    """Write a checkpoint; not in the event loop while episodes run in it."""
    if state.stream is None:
        write_checkpoint(state)
    else:
        await in_daemon(lambda: write_checkpoint(state), "agentgrpo-checkpoint")


def write_checkpoint(state: RunState) -> None:
    """Write what the run was at the end of the last step, which nothing has changed since."""
    state.manager.activity.enter("checkpoint")
    with state.checkpoint_lock:  # a run that is stopped meanwhile writes it as well
        state.metrics.sync()
        kept = state.kept
        state.checkpoints.save(kept.progress.step, kept.write, config=state.opened.config_hash, versions=versions())
        if not state.bench.heldout_tasks:  # then the last checkpoint is the best there is
            state.checkpoints.mark_best(kept.progress.step)


def _judge(state: RunState) -> None:
    """Let the checkpoint that was evaluated be the best one, if it is: on the tasks that every evaluation plays."""
    success = state.latest.common if state.latest is not None else None
    if success is not None and success >= (state.progress.best or 0.0):
        state.progress.best = success
        state.checkpoints.mark_best(state.step)
