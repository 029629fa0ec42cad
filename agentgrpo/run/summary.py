"""What a run comes to in numbers and in words: metrics of a step, summary of a run, what to type next.

Pure functions: nothing is measured, printed or written here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from agentgrpo.config.run import Config
from agentgrpo.evaluate.heldout import Evaluation, by_part
from agentgrpo.learner.filters import Decision
from agentgrpo.learner.step import LearnResult
from agentgrpo.rollout.group import GroupResult
from agentgrpo.store.episodes import TrainingRow
from agentgrpo.store.rows import FacetRow
from agentgrpo.types import Boundary, Group, StopReason, Trajectory, Turn

_ERROR_KIND = re.compile(r'\{"error": \{"type": "(\w+)"')  # as `tooling.error_result` writes it
_MOST_KINDS = 24  # of tasks; where there are more, their ids name no kinds
_VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
_VLLM_TOOL_PARSERS = {"qwen3": "hermes"}  # by renderer


def train_metrics(
    trajectories: Sequence[Trajectory], groups: Sequence[Group], learned: LearnResult, env_id: str
) -> dict[str, float]:
    """Return the metrics of one train step of an environment; means are over scored episodes."""
    scored = [t for group in groups for t in group.trajectories]
    calls = sum(t.call_count for t in scored)
    count = len(scored)
    metrics = {
        "train/reward": sum(t.reward or 0.0 for t in scored) / count,
        "train/success": sum(bool(t.success) for t in scored) / count,
        "train/turns": sum(len(t.turns) for t in scored) / count,
        "train/tool_calls": calls / count,
        "train/tool_error_rate": sum(t.error_count for t in scored) / calls if calls else 0.0,
        "train/sampled_tokens": sum(t.sampled_count for t in scored) / count,
        "train/forks": float(sum(t.forks for t in scored)),
        "train/failed": float(sum(t.stop_reason is StopReason.FAILED for t in trajectories)),
        "train/truncated": sum(t.stop_reason.is_truncated for t in scored) / count,
    }
    kinds = Counter(kind for t in scored for turn in t.turns for kind in _error_kinds(turn))
    for name, part in by_part(scored, env_id).items():
        metrics[f"train/reward/{name}"] = sum(t.reward or 0.0 for t in part) / len(part)
        metrics[f"train/success/{name}"] = sum(bool(t.success) for t in part) / len(part)
        metrics[f"train/episodes/{name}"] = float(len(part))
    metrics |= {f"train/tool_errors/{kind}": number / calls for kind, number in sorted(kinds.items()) if calls}
    return metrics | {f"train/{name}": value for name, value in learned.metrics.items()}


def score_metrics(results: Sequence[GroupResult]) -> dict[str, float]:
    """Return the mean of each reward term, unweighted, where it is known, and how many could not be scored by what."""
    scored = [t for result in results for t in result.group.trajectories]
    names = sorted({name for t in scored for name in t.reward_terms})
    values = {name: [t.reward_terms[name] for t in scored if name in t.reward_terms] for name in names}
    missing = Counter(t.failure.boundary for result in results for t in result.failed if t.failure is not None)
    unscored = {f"train/unscored/{name}": float(missing[name]) for name in (Boundary.REWARD, Boundary.JUDGE)}
    return {f"train/terms/{name}": sum(known) / len(known) for name, known in values.items()} | unscored


def staleness_metrics(groups: Sequence[Group], version: int) -> dict[str, float]:
    """Return how many updates behind the learner the episodes of a step were sampled: mean, most, share of each."""
    counts = Counter(version - t.policy.version for group in groups for t in group.trajectories)
    total = counts.total()
    return {
        "train/staleness": sum(lag * count for lag, count in counts.items()) / total,
        "train/staleness_max": float(max(counts)),
        **{f"train/staleness/{lag}": count / total for lag, count in sorted(counts.items())},
    }


def cut_metrics(results: Sequence[GroupResult], min_survivors: int) -> dict[str, float]:
    """Return what was lost of a step's groups by reason; a group with too few survivors does not train."""
    return {
        "train/cut_episodes": float(sum(r.cut for r in results)),
        "train/groups_cut/deadline": float(sum(bool(r.cut) for r in results)),
        "train/groups_cut/failed": float(sum(bool(r.broken) for r in results)),
        "train/groups_cut/too_few_survivors": float(sum(len(r.group.trajectories) < min_survivors for r in results)),
    }


def training_rows(learned: LearnResult) -> list[TrainingRow]:
    """Return what the store keeps of a train step about each episode."""
    return [_training_row(learned, decision) for decision in learned.decisions]


def _training_row(learned: LearnResult, decision: Decision) -> TrainingRow:
    tokens = learned.tokens.get(decision.key)
    return TrainingRow(
        key=decision.key,
        advantage=learned.advantages.get(decision.key),
        filter_reason=None if decision.reason is None else str(decision.reason),
        logprobs=None if tokens is None else tokens.logprobs,
        entropies=None if tokens is None else tokens.entropies,
    )


def _error_kinds(turn: Turn) -> Iterator[str]:
    for message in turn.messages:
        if message.get("is_error"):
            match = _ERROR_KIND.match(str(message["content"]))
            yield match[1] if match else "other"


def run_summary(
    before: Evaluation | None,
    after: Evaluation | None,
    *,
    config: Config,
    heldout_tasks: int,
    wall_seconds: float,
    train_steps: int,
    episodes: int,
    sampled_tokens: int,
    ends: Mapping[str, int],
    troubles: Mapping[str, int],
    groups_cut: Mapping[str, int],
) -> dict[str, Any]:
    """Return what `summary.json` holds. What was not evaluated is None; without groups cut there is no such entry."""
    return {
        "heldout_success_before": before.success if before else None,
        "heldout_success_after": after.success if after else None,
        "heldout_interval_before": [before.low, before.high] if before else None,
        "heldout_interval_after": [after.low, after.high] if after else None,
        "heldout_tasks": heldout_tasks,
        "wall_seconds": round(wall_seconds, 1),
        "train_steps": train_steps,
        "episodes": episodes,
        "sampled_tokens": sampled_tokens,
        "episodes_per_second": round(episodes / wall_seconds, 2),
        "sampled_tokens_per_second": round(sampled_tokens / wall_seconds, 1),
        "seed": config.seed,
        "stop_reasons": {str(reason): count for reason, count in sorted(ends.items())},
        "troubles": dict(troubles),
        **({"groups_cut": dict(groups_cut)} if groups_cut else {}),
    }


def farewell(
    path: Path,
    config: Config,
    before: Evaluation | None,
    after: Evaluation | None,
    summary: Mapping[str, Any],
    *,
    renderer: str,
    facets: Sequence[FacetRow] = (),
    program: str = "agentgrpo",
) -> list[str]:
    """Return the lines a run ends with: what came of it, and what to type next (`program` is how we are called).

    `facets` are the sums of the last evaluation, by which kinds of task are told apart.
    """
    results = []
    if before is not None and after is not None:
        results = [f"held-out success before  {before}", f"held-out success after   {after}"]
    speed = f"{summary['episodes_per_second']} episodes/s, {summary['sampled_tokens_per_second']} sampled tokens/s"
    minutes = summary["wall_seconds"] / 60
    misses = missed(facets)
    return [
        "",
        *results,
        f"{summary['train_steps']} train steps, {summary['episodes']} episodes in {minutes:.1f} min ({speed})",
        f"run      {path}   (curve.png, metrics.jsonl, summary.json)",
        f"look     {program} show {path}",
        *([f"missed   {program} show {path} {misses}"] if misses else []),
        f"again    {program} eval {path}",
        f"serve    {serve_command(path, config, renderer)}",
    ]


def missed(facets: Sequence[FacetRow]) -> str:
    """Return what lists the episodes of an evaluation that did not succeed, and the kinds of task they are most of."""
    kinds = [row for row in facets if row.facet == "family" and row.scored]
    lost = sorted((row for row in kinds if row.successes < row.scored), key=lambda r: (r.successes - r.scored, r.value))
    if not lost:
        return ""
    told = [f"{row.value} {row.scored - row.successes} of {row.scored}" for row in lost[:3]]
    more = [f"{len(lost) - 3} more kinds"] if len(lost) > 3 else []
    has_names = 1 < len(kinds) <= _MOST_KINDS and all(row.value.isprintable() for row in lost)
    names = f"   ({', '.join(told + more)})" if has_names else ""
    return f"--filter 'phase:eval step:{lost[0].step} success:no'{names}"


def no_survivors(results: Sequence[GroupResult]) -> str:
    """Return why a step cannot be trained on, with the first thing that went wrong."""
    causes = [str(t.failure.cause) for r in results for t in r.failed if t.failure is not None]
    first = f" First cause: {causes[0]}" if causes else ""
    cut = sum(r.cut for r in results)
    first += f" {cut} episodes met rollout.group_seconds: give groups more time" if cut else ""
    return f"no group kept enough scored episodes to train on ({len(causes)} attempts failed).{first}"


def serve_command(path: Path, config: Config, renderer: str) -> str:
    """Return the command that serves the best adapter with vLLM, tool calls parsed where vLLM knows the format."""
    rank = next((r for r in _VLLM_RANKS if r >= config.model.lora.rank), config.model.lora.rank)
    parser = _VLLM_TOOL_PARSERS.get(renderer)
    tools = f" --enable-auto-tool-choice --tool-call-parser {parser}" if parser else ""
    adapter = f"--enable-lora --max-lora-rank {rank} --lora-modules {config.name}={path}/checkpoints/best"
    return f"vllm serve {config.model.path} {adapter}{tools}"
