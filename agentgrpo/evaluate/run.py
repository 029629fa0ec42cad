"""`agentgrpo eval RUN`: a run's checkpoint on held-out tasks, as that run was configured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agentgrpo.activity import Activity
from agentgrpo.blocking import run_blocking
from agentgrpo.config.run import Config, EvalConfig, load_config
from agentgrpo.errors import EnvError, TaskError, UserError
from agentgrpo.evaluate.heldout import Evaluation, evaluate
from agentgrpo.registry import EnvSource
from agentgrpo.rollout.manager import RolloutManager
from agentgrpo.run.checkpoint import Checkpoints
from agentgrpo.run.report import Reporter
from agentgrpo.run.rewarding import opened_scorer
from agentgrpo.run.workbench import Workbench, assemble, open_env, open_tasks, set_threads
from agentgrpo.store.run import RunDirectory, write_json
from agentgrpo.tasks import load_tasks
from agentgrpo.types import Policy, Task, Trajectory


def evaluate_checkpoint(
    path: Path, *, checkpoint: str = "best", split: str = "", overrides: Sequence[str] = (), reporter: Reporter
) -> Evaluation:
    """Evaluate a checkpoint ("best", "last", "step-NNNNNN" or "base") and write the result into the run.

    Raises:
        UserError: no such run, checkpoint or split.
    """
    run = RunDirectory.open(path)
    record = run.read_record()
    if "endpoint" in record:
        what = f"'{run.path}' is an evaluation of {record['endpoint']['model']}"
        raise UserError(f"{what}: repeat it with agentgrpo eval {run.config} --endpoint URL --model NAME")
    changed = {override.partition("=")[0].strip() for override in overrides}
    here = run.model_folder() if "model.path" not in changed else None
    config = load_config(run.config, overrides=[*([f"model.path={here}"] if here else []), *overrides])
    if config.env.startswith("__main__:") and "env" not in changed:
        name = config.env.removeprefix("__main__:")
        raise EnvError(f"the environment {name} was defined in the script itself: name it, --set env=script.py:{name}")
    set_threads(config)
    source = open_env(config, None)
    tasks = _tasks(config, source, run.heldout, split, changed)
    bench = assemble(config, source, (), tasks)
    if checkpoint != "base":
        folder = Checkpoints(folder=run.checkpoints, keep=1).path(checkpoint)
        if folder is None:
            there = ", ".join(sorted(p.name for p in run.checkpoints.glob("[!.]*"))) or "none"
            raise UserError(f"no checkpoint '{checkpoint}' in {run.checkpoints}; there: {there}, base")
        bench.policy.load(folder)
    found = run_blocking(_evaluate(bench, tasks[: config.eval.tasks], run, reporter))
    name = f"eval-{checkpoint}{f'-{split}' if split else ''}.json"
    write_json(run.path / name, {"checkpoint": checkpoint, "split": split or "heldout", **found.metrics()})
    reporter.message(f"{checkpoint}, {split or 'heldout'}: success {found}")
    return found


def _tasks(config: Config, source: EnvSource, kept: Path, split: str, changed: set[str]) -> tuple[Task, ...]:
    """Return the tasks of a split, or those the run held out."""
    if split:
        tasks = load_tasks(source.tasks(split), split=split)
    elif kept.is_file() and not changed & {"tasks", "heldout"}:
        tasks = load_tasks(kept) if kept.stat().st_size else ()
    else:
        tasks = open_tasks(config, source, None, None)[1]
    if not tasks:
        what = f"{source.id} has no split '{split}'" if split else "this run held no tasks out"
        raise TaskError(f"nothing to evaluate on: {what}; name a split of the environment (--split), or set heldout")
    return tasks


async def _evaluate(bench: Workbench, tasks: Sequence[Task], run: RunDirectory, reporter: Reporter) -> Evaluation:
    policy, activity = Policy(name="eval"), Activity(reporter.message)
    try:
        await bench.publish(bench.policy.adapter(), policy)
        with opened_scorer(bench.rewarding, run.verdicts, activity=activity) as scorer:
            manager = RolloutManager(
                bench.source,
                bench.chat,
                bench.engine,
                bench.config.rollout,
                seed=bench.config.seed,
                activity=activity,
                scorer=scorer,
            )
            async with manager:
                return await _play(manager, tasks, bench.config.eval, policy, reporter)
    finally:
        await bench.engine.close()


async def _play(
    manager: RolloutManager, tasks: Sequence[Task], config: EvalConfig, policy: Policy, reporter: Reporter
) -> Evaluation:
    with reporter.progress("evaluation", len(tasks) * config.samples) as advance:

        async def count(trajectory: Trajectory) -> None:
            advance(int(trajectory.is_scored))

        return await evaluate(manager, tasks, config, policy=policy, step=0, on_episode=count)
