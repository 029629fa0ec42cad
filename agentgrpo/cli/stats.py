"""`agentgrpo env stats`: an environment in figures, and whether there is anything to learn from.

It plays baselines, and a policy if one is named; it trains nothing.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from agentgrpo.baselines import BASELINES, Played, has_oracle, play
from agentgrpo.chat import Chat
from agentgrpo.cli.target import Target, open_target
from agentgrpo.cli.transcript import BAD, GOOD, QUIET, WARN
from agentgrpo.endpoint.client import Endpoint
from agentgrpo.envstats.figures import Ended, Score, Spread, answer, score_of, signal_of, spread_of
from agentgrpo.envstats.groups import of_endpoint, of_model, of_run
from agentgrpo.envstats.lengths import CHARACTERS, Length, ended, measure
from agentgrpo.errors import EnvError, UserError
from agentgrpo.run.report import ConsoleReporter
from agentgrpo.tooling import describe
from agentgrpo.types import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What `env stats` was asked for besides the environment."""

    split: str
    episodes: int  # of each baseline
    groups: int  # of the policy
    model: str | None = None
    endpoint: str | None = None
    api_key_env: str | None = None
    run: Path | None = None


def stats(env: str, tasks: Path | None, overrides: Sequence[str], asked: Asked) -> None:
    """Measure and print."""
    if asked.run is not None and (asked.model or asked.endpoint):
        raise UserError("--run tells of recorded episodes: leave out --model and --endpoint, or leave it out")
    target = open_target(env, tasks, overrides)
    reporter = ConsoleReporter()
    console = reporter.console
    there = target.splits()
    console.print(_tasks(target, there))
    rows: Sequence[Task | None] = target.split(asked.split) if there else [None]
    played = _baselines(target, rows, asked, reporter)
    scores = [score_of(name, [ended(task, one) for task, one in episodes]) for name, episodes in played.items()]
    console.print(Text(), _scores(scores), Text())
    longest = next(name for name in ("oracle", "random") if name in played)
    for part in _lengths(target, asked, longest, [one for _, one in played[longest]]):
        console.print(part)
    policy = _policy(target, rows, asked, reporter)
    if policy is None:
        console.print(Text(_unknown(scores), WARN))
        return
    _print_policy(console, target, *policy)


def _baselines(
    target: Target, rows: Sequence[Task | None], asked: Asked, reporter: ConsoleReporter
) -> dict[str, list[tuple[Task | None, Played]]]:
    env = target.source.make()
    names = [name for name in BASELINES if name != "oracle" or has_oracle(env)]
    env.close()
    chosen = _draw(rows, asked.episodes)
    played: dict[str, list[tuple[Task | None, Played]]] = {}
    with reporter.progress("baselines", len(names) * len(chosen)) as advance:
        for name in names:
            played[name] = []
            for index, task in enumerate(chosen):
                played[name].append((task, _play(target, task, name, index)))
                advance()
    return played


def _play(target: Target, task: Task | None, baseline: str, seed: int) -> Played:
    try:
        return play(target.source, task, baseline, seed=seed)
    except UserError:
        raise
    except Exception as error:
        what = f"task '{task.id}'" if task is not None else f"seed {seed}"
        raise EnvError(
            f"{target.name} broke while '{baseline}' played {what}: {describe(error)}; agentgrpo env check says more"
        ) from error


def _draw(rows: Sequence[Task | None], count: int) -> list[Task | None]:
    """Return tasks spread over all of them; where there are none, episodes that are made of their seeds."""
    if rows[0] is None:
        return [None] * count
    return random.Random(0).sample(list(rows), min(count, len(rows)))


def _policy(
    target: Target, rows: Sequence[Task | None], asked: Asked, reporter: ConsoleReporter
) -> tuple[str, list[Ended]] | None:
    """Return the name and the groups of the policy that was asked for."""
    if asked.run is not None:
        return of_run(asked.run, asked.groups)
    if asked.model is None:
        return None
    tasks = [task for task in _draw(rows, asked.groups) if task is not None]
    if not tasks:
        raise UserError(f"{target.name} ships no tasks to make groups of: give --tasks FILE, or a config")
    if asked.endpoint is not None:
        endpoint = Endpoint(asked.endpoint, asked.model, api_key_env=asked.api_key_env)
        return asked.model, of_endpoint(target.config, target.source, endpoint, tasks, reporter)
    config = target.config
    config = config.model_copy(update={"model": config.model.model_copy(update={"path": asked.model})})
    return asked.model, of_model(config, target.source, tasks, reporter)


def _chat(target: Target, asked: Asked) -> tuple[Chat | None, str]:
    """Return the tokenizer to count with, and how to say what was counted with."""
    path = asked.model if asked.model is not None and asked.endpoint is None else target.config.model.path
    if asked.model is None and not (Path(path) / "tokenizer_config.json").is_file():
        return None, f"tokens: one for {CHARACTERS} characters; --model FOLDER counts them"
    model = target.config.model
    chat = Chat.from_folder(path, renderer=model.renderer, enable_thinking=model.enable_thinking)
    return chat, f"tokens of {path}"


def _tasks(target: Target, there: dict[str, tuple[Task, ...]]) -> Table | Text:
    if not there:
        return Text("no tasks: each seed makes an episode", QUIET)
    levels = sorted({task.row["level"] for tasks in there.values() for task in tasks if "level" in task.row})
    table = _table("tasks", "", *(f"level {level}" for level in levels))
    for split, tasks in there.items():
        counts = [sum(task.row.get("level") == level for task in tasks) for level in levels]
        table.add_row(split, f"{len(tasks):,}", *(f"{count:,}" for count in counts))
    return table


def _scores(scores: Sequence[Score]) -> Table:
    table = _table("score", "success (95 %)", "reward", "turns", "calls", "errors", "episodes")
    for score in scores:
        table.add_row(*_score_cells(score))
    return table


def _score_cells(score: Score) -> Iterator[Text]:
    yield Text(score.policy)
    yield Text(f"{score.success:.2f} ({score.low:.2f}-{score.high:.2f})")
    yield Text(f"{score.reward:.2f} ±{score.margin:.2f}")
    yield Text(f"{score.turns:.1f}")
    yield Text(f"{score.calls:.1f}")
    yield Text(f"{score.error_rate:.0%}", WARN if score.policy == "oracle" and score.error_rate else "")
    yield Text(str(score.episodes), QUIET)


def _lengths(target: Target, asked: Asked, policy: str, played: Sequence[Played]) -> Iterator[Table | Text]:
    chat, counted = _chat(target, asked)
    try:
        lengths = measure(played, chat)
    except EnvError as error:
        yield Text(f"tokens cannot be counted: {error}\n", WARN)
        return
    table = _table("length", "median", "90 %", "most")
    for name, values in (
        ("turns", [len(one.turns) for one in played]),
        ("calls", [one.call_count for one in played]),
        ("prompt tokens", [one.prompt for one in lengths]),
        ("sampled tokens", [one.sampled for one in lengths]),
        ("all tokens", [one.total for one in lengths]),
    ):
        table.add_row(name, *_spread_cells(spread_of(values)))
    yield table
    yield Text(f"episodes of the {policy}; {counted}", QUIET)
    yield Text()
    yield _forecast(target, lengths)
    yield Text()


def _spread_cells(spread: Spread) -> Iterator[str]:
    yield from (f"{value:,.0f}" for value in (spread.median, spread.high, spread.most))


def _forecast(target: Target, lengths: Sequence[Length]) -> Text:
    rollout, count = target.config.rollout, len(lengths)
    sampled, total = sum(one.sampled for one in lengths) / count, sum(one.total for one in lengths) / count
    episodes = rollout.tasks_per_step * rollout.group_size
    return Text.assemble(
        ("forecast\n", "bold"),
        f"an episode      {sampled:,.0f} tokens sampled of {total:,.0f}, at most {rollout.max_tokens:,}\n",
        f"a train step    {episodes * sampled:,.0f} of {episodes * total:,.0f}, ",
        f"at most {episodes * rollout.max_tokens:,} ({rollout.tasks_per_step} groups of {rollout.group_size})",
    )


def _print_policy(console: Console, target: Target, name: str, episodes: Sequence[Ended]) -> None:
    if not episodes:
        raise UserError(f"no episode of {name} could be scored: agentgrpo doctor says why")
    console.print(_scores([score_of(name, episodes)]))
    sampled = [e.sampled_tokens for e in episodes if e.sampled_tokens is not None]
    if sampled:
        rollout = target.config.rollout
        mean = sum(sampled) / len(sampled)
        step = mean * rollout.tasks_per_step * rollout.group_size
        console.print(Text(f"{mean:,.0f} tokens sampled in an episode, {step:,.0f} in a train step", QUIET))
    signal = signal_of(episodes)
    console.print()
    if signal is None:
        raise UserError(
            f"{name} played each task once: whether rewards differ needs groups (eval --samples 4, or more)"
        )
    told = answer(signal, target.config.rollout.tasks_per_step)
    style = GOOD if told.startswith("Yes") else WARN if told.startswith("Little") else BAD
    console.print(
        Text(f"{signal.differing} of {signal.groups} groups differ, by {signal.within:.2f} on average", QUIET)
    )
    console.print(Text.assemble(("Is there anything to learn from?  ", "bold"), (told, style)))


def _unknown(scores: Sequence[Score]) -> str:
    by_name = {score.policy: score for score in scores}
    room = f"from {by_name['random'].reward:.2f} (random) to "
    room += (
        f"{by_name['oracle'].reward:.2f} (oracle)" if "oracle" in by_name else "what nobody knows: there is no oracle()"
    )
    return (
        f"There is room {room}. Whether a model can learn from it depends on the model: name one with --model FOLDER, "
        "with --endpoint URL --model NAME, or with --run RUN"
    )


def _table(title: str, *columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style=QUIET)
    table.add_column(Text(title, "bold"), min_width=14, overflow="fold")  # names give way, numbers do not
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table
