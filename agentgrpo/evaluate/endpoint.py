"""`agentgrpo eval ENV --endpoint URL --model NAME`: how a chat model does on an environment's held-out tasks.

Its episodes are kept in a run folder like any other: to look at, and to warm-start a model from the good ones.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from agentgrpo.activity import Activity
from agentgrpo.blocking import run_blocking
from agentgrpo.config.run import Config, load_config
from agentgrpo.endpoint.client import Endpoint
from agentgrpo.errors import AgentGRPOError, TaskError
from agentgrpo.evaluate.heldout import Evaluation, evaluate
from agentgrpo.registry import EnvSource
from agentgrpo.rollout.text import TextRollouts
from agentgrpo.run.report import Reporter
from agentgrpo.run.rewarding import Rewarding, open_rewarding, opened_scorer
from agentgrpo.run.workbench import open_env, open_tasks
from agentgrpo.store.episodes import EpisodeStore
from agentgrpo.store.record import finish_record, settle_record, start_record
from agentgrpo.store.run import RunDirectory, write_json, write_lines, write_text
from agentgrpo.tasks import load_tasks
from agentgrpo.types import JsonObject, Policy, Task, Trajectory

_INEXACT = "a model behind an endpoint answers as it likes"


def evaluate_endpoint(
    target: str, endpoint: Endpoint, *, split: str = "", overrides: Sequence[str] = (), reporter: Reporter
) -> Evaluation:
    """Let a chat model play an environment's held-out tasks and keep its episodes as a run.

    Args:
        target: What names an environment, or a TOML file whose environment, limits, tasks and [eval] are taken.
        endpoint: The model.
        split: Tasks of this split in place of the held-out ones.
        overrides: "section.key=value" strings.
        reporter: Where progress goes.

    Raises:
        UserError: the environment, the tasks, or what the endpoint was asked for must be mended.
        RunError: too many episodes broke.
    """
    source_keys = {} if target.endswith(".toml") else {"env": target}
    name = f"eval-{re.sub(r'[^A-Za-z0-9._-]+', '-', endpoint.model).strip('-')}"
    config = load_config(
        Path(target) if not source_keys else {}, overrides=["train.steps=0", *overrides], name=name, **source_keys
    )
    rewarding, source = open_rewarding(config), open_env(config, None)
    tasks = _tasks(config, source, split)
    run = _open_run(config, source, endpoint, split or "heldout", tasks, rewarding)
    reporter.message(f"run: {run.path}")
    try:
        found, counts = run_blocking(_play(config, source, endpoint, tasks, run, rewarding, reporter))
    except KeyboardInterrupt:
        finish_record(run, status="interrupted")
        raise
    except AgentGRPOError as error:
        finish_record(run, status="failed", cause=str(error))
        raise
    finally:
        settle_record(run)
    finish_record(run, status="finished", endpoint=_about(endpoint), repeated=dict(endpoint.repeated))
    summary = {"model": endpoint.model, "split": split or "heldout", **found.metrics(), **counts.totals()}
    write_json(run.summary, summary)
    for line in (f"{endpoint.model}, {split or 'heldout'}: success {found}", *counts.lines(), *_next(run, endpoint)):
        reporter.message(line)
    return found


def _tasks(config: Config, source: EnvSource, split: str) -> tuple[Task, ...]:
    tasks = load_tasks(source.tasks(split), split=split) if split else open_tasks(config, source, None, None)[1]
    if not tasks:
        what = f"{source.id} has no split '{split}'" if split else f"{source.id} holds no tasks out"
        raise TaskError(f"nothing to evaluate on: {what}; name a split of the environment (--split), or set heldout")
    return tasks[: config.eval.tasks]


def _open_run(
    config: Config,
    source: EnvSource,
    endpoint: Endpoint,
    split: str,
    tasks: Sequence[Task],
    rewarding: Rewarding | None,
) -> RunDirectory:
    run = RunDirectory.create(config.train.runs, config.name)
    rows: dict[str, list[JsonObject]] = {split: [task.row for task in tasks]}
    references = rewarding.references() if rewarding is not None else {}
    write_text(run.config, config.model_copy(update=references).to_toml())
    write_lines(run.heldout, rows[split])
    start_record(
        run,
        config=config.model_dump(mode="json", exclude_none=True),
        env=source.classes,
        env_id=source.id,
        tasks=rows,
        model_path=None,
        sampling=config.eval.model_dump(mode="json"),
        scoring=rewarding.hashes if rewarding is not None else None,
        inexact=[_INEXACT],
    )
    write_json(run.record, {**run.read_record(), "endpoint": _about(endpoint)})
    return run


def _about(endpoint: Endpoint) -> JsonObject:
    return {"url": endpoint.url, "model": endpoint.model}


class _Counts:
    """What the episodes come to beside their success."""

    def __init__(self) -> None:
        self.sums: Counter[str] = Counter()
        self.ends: Counter[str] = Counter()
        self.seconds = 0.0
        self.repeated: Counter[str] = Counter()

    def add(self, trajectory: Trajectory) -> None:
        self.ends[trajectory.stop_reason] += 1
        self.seconds += sum(turn.generate_seconds for turn in trajectory.turns)
        self.sums["turns"] += len(trajectory.turns)
        self.sums["calls"] += trajectory.call_count
        self.sums["errors"] += trajectory.error_count
        for name in ("prompt_tokens", "completion_tokens"):
            self.sums[name] += trajectory.info["endpoint"][name] or 0

    def totals(self) -> JsonObject:
        return {**self.sums, "stop_reasons": dict(sorted(self.ends.items())), "repeated": dict(self.repeated)}

    def lines(self) -> Iterator[str]:
        sums, turns, episodes = self.sums, max(1, self.sums["turns"]), max(1, sum(self.ends.values()))
        errors = f"{sums['errors'] / sums['calls']:.1%} of them errors" if sums["calls"] else "none"
        yield (
            f"an episode: {sums['turns'] / episodes:.1f} turns, {sums['calls'] / episodes:.1f} tool calls ({errors}), "
            f"{self.seconds / turns:.2f} s per answer"
        )
        if sums["completion_tokens"]:
            yield f"tokens, as the endpoint counts: {sums['prompt_tokens']:,} in, {sums['completion_tokens']:,} out"
        yield "ended: " + ", ".join(f"{reason} {count}" for reason, count in self.ends.most_common())
        if self.repeated:
            yield "asked again: " + ", ".join(f"{kind} {count}" for kind, count in self.repeated.most_common())


async def _play(
    config: Config,
    source: EnvSource,
    endpoint: Endpoint,
    tasks: Sequence[Task],
    run: RunDirectory,
    rewarding: Rewarding | None,
    reporter: Reporter,
) -> tuple[Evaluation, _Counts]:
    counts, clock, activity = _Counts(), time.monotonic(), Activity(reporter.message)
    with (
        EpisodeStore(run.episodes) as store,
        opened_scorer(rewarding, run.verdicts, activity=activity) as scorer,
    ):
        async with (
            endpoint,
            TextRollouts(
                source, endpoint, config.rollout, seed=config.seed, activity=activity, scorer=scorer
            ) as rollouts,
        ):
            with reporter.progress(f"{endpoint.model} plays", len(tasks) * config.eval.samples) as advance:

                async def keep(trajectory: Trajectory) -> None:
                    await store.add([trajectory])
                    counts.add(trajectory)
                    advance(int(trajectory.is_scored))

                policy = Policy(name=endpoint.model)
                found = await evaluate(rollouts, tasks, config.eval, policy=policy, step=0, on_episode=keep)
    counts.repeated = endpoint.repeated
    counts.sums["wall_seconds"] = round(time.monotonic() - clock)
    return found, counts


def _next(run: RunDirectory, endpoint: Endpoint) -> Iterator[str]:
    yield f"look     agentgrpo show {run.path}"
    yield f"learn    agentgrpo model sft MODEL FOLDER --run {run.path}"
