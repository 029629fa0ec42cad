"""`agentgrpo eval RUN`: a run's checkpoint on held-out tasks, as that run was configured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agentgrpo.blocking import run_blocking
from agentgrpo.checkpoint import Checkpoints
from agentgrpo.config import load_config
from agentgrpo.errors import TaskError, UserError
from agentgrpo.evaluate import Evaluation, evaluate
from agentgrpo.report import Reporter
from agentgrpo.rollout.group import GroupResult
from agentgrpo.rollout.manager import RolloutManager
from agentgrpo.store.run import RunDirectory, write_json
from agentgrpo.tasks import load_tasks
from agentgrpo.types import Policy, Task
from agentgrpo.workbench import Workbench, prepare


def evaluate_checkpoint(
    path: Path, *, checkpoint: str = "best", split: str = "", overrides: Sequence[str] = (), reporter: Reporter
) -> Evaluation:
    """Evaluate a checkpoint ("best", "last", "step-NNNNNN" or "base") and write the result into the run.

    Raises:
        UserError: no such run, checkpoint or split.
    """
    run = RunDirectory.open(path)
    config = load_config(run.config, overrides=overrides)
    bench = prepare(config, env=None, tasks=None, heldout=None, reporter=reporter)
    if checkpoint != "base":
        folder = Checkpoints(folder=run.checkpoints, keep=1).path(checkpoint)
        if folder is None:
            there = ", ".join(sorted(p.name for p in run.checkpoints.glob("[!.]*"))) or "none"
            raise UserError(f"no checkpoint '{checkpoint}' in {run.checkpoints}; there: {there}, base")
        bench.policy.load(folder)
    tasks = load_tasks(bench.source.tasks(split), split=split) if split else bench.heldout_tasks
    if not tasks:
        raise TaskError(f"nothing to evaluate on: {bench.source.id} has no tasks in '{split or 'heldout'}'")
    found = run_blocking(_evaluate(bench, tasks[: config.eval.tasks], reporter))
    name = f"eval-{checkpoint}{f'-{split}' if split else ''}.json"
    write_json(run.path / name, {"checkpoint": checkpoint, "split": split or "heldout", **found.metrics()})
    reporter.message(f"{checkpoint}, {split or 'heldout'}: success {found}")
    return found


async def _evaluate(bench: Workbench, tasks: Sequence[Task], reporter: Reporter) -> Evaluation:
    policy = Policy(name="eval")
    try:
        await bench.engine.publish(bench.policy.adapter(), policy)
        async with RolloutManager(
            bench.source, bench.chat, bench.engine, bench.config.rollout, seed=bench.config.seed
        ) as manager:
            with reporter.progress("evaluation", len(tasks)) as advance:

                async def count(result: GroupResult) -> None:
                    advance()

                return await evaluate(manager, tasks, bench.config.eval, policy=policy, step=0, on_group=count)
    finally:
        await bench.engine.close()
