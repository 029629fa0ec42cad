"""replay, rescore and train --from-record: from arguments to the library and back to a screen."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from agentgrpo.cli.transcript import BAD, GOOD, QUIET, WARN, dotted, mark, number, printable, stop_text
from agentgrpo.endpoint.client import Endpoint
from agentgrpo.replay.compare import Divergence, Replayed
from agentgrpo.replay.difference import difference
from agentgrpo.replay.episodes import RunReplay, replay_episode, replay_run
from agentgrpo.replay.fork import fork as fork_episode
from agentgrpo.replay.movement import Movement, Pair
from agentgrpo.replay.prefix import Diverged
from agentgrpo.replay.rescore import Rescored
from agentgrpo.replay.rescore import rescore as rescore_run
from agentgrpo.replay.step import Repeated, repeat_step
from agentgrpo.run.report import ConsoleReporter
from agentgrpo.store.rows import EpisodeRow

_LISTED = 10  # divergences, and kinds of problems, of a run


def replay(run: Path, episode: str | None, mock_tools: bool, overrides: Sequence[str]) -> None:
    """Replay one episode, or all of a run; exit 1 when something differs."""
    console = _console()
    if episode is None:
        found = replay_run(run, mock_tools=mock_tools, overrides=overrides, reporter=ConsoleReporter(console))
        _print(console, _summary(found, run))
        is_same = not found.diverged
    else:
        one = replay_episode(
            run, episode, mock_tools=mock_tools, overrides=overrides, reporter=ConsoleReporter(console)
        )
        _print(console, _verdict(one))
        is_same = one.is_same
    if not is_same:
        raise typer.Exit(1)


def fork(
    run: Path,
    episode: str,
    turn: int,
    count: int,
    player: str | tuple[str, str, str | None] | None,
    action: str | None,
    overrides: Sequence[str],
) -> None:
    """Fork an episode at a turn; exit 1 when what came before does not happen again."""
    console = _console()
    policy = Endpoint(player[0], player[1], api_key_env=player[2]) if isinstance(player, tuple) else player
    try:
        rows = fork_episode(
            run,
            episode,
            turn=turn,
            count=count,
            policy=policy,
            action=action,
            overrides=overrides,
            reporter=ConsoleReporter(console),
        )
    except Diverged as error:
        _print(
            console, [Text(f"turn {turn} cannot be re-entered: before it, the {error.divergence} would differ", BAD)]
        )
        _print(console, _difference(error.divergence))
        raise typer.Exit(1) from error
    console.print(_forks(rows))
    _print(console, [Text.assemble(("one in full: ", QUIET), f"agentgrpo show {shlex.quote(str(run))} {rows[0].id}")])


def rescore(run: Path, reward: str, weights: Mapping[str, float], with_state: bool, overrides: Sequence[str]) -> None:
    """Score a run's episodes by another reward and show what it would have changed."""
    console = _console()
    found = rescore_run(
        run, reward, weights=weights, with_state=with_state, overrides=overrides, reporter=ConsoleReporter(console)
    )
    _print(console, _rescored(found, reward))
    console.print(_moves(found.movements))
    _print(console, _groups(found.movements))
    if found.most_moved:
        console.print(_most(found.most_moved))


def from_record(run: Path, step: int, overrides: Sequence[str]) -> None:
    """Make a train step again from its record; exit 1 when a number differs."""
    console = _console()
    found = repeat_step(run, step, overrides=overrides, reporter=ConsoleReporter(console))
    _print(console, _repeated(found))
    if found.difference is not None:
        raise typer.Exit(1)


def _console() -> Console:
    return Console(highlight=False)


def _print(console: Console, lines: Sequence[Text] | Iterator[Text]) -> None:
    for line in lines:
        console.print(line, soft_wrap=True)


def _verdict(found: Replayed) -> Iterator[Text]:
    what = Text.assemble(f"#{found.episode} ", (printable(str(found.key)), "bold"), f", {found.turns} turns: ")
    if found.divergence is None:
        yield Text.assemble(what, ("the same", GOOD), f" ({', '.join(found.checked)})")
    else:
        yield Text.assemble(what, (f"diverged: {found.divergence}", BAD))
        yield from _difference(found.divergence)
    if found.note is not None:
        yield Text(f"note: {printable(found.note)}", QUIET)


def _difference(divergence: Divergence) -> Iterator[Text]:
    for line in difference(divergence.expected, divergence.got):
        style = GOOD if line.startswith(("+", "got")) else BAD if line.startswith(("-", "expected")) else QUIET
        yield Text(f"  {printable(line)}", style)


def _summary(found: RunReplay, run: Path) -> Iterator[Text]:
    parts = [Text(f"{found.total:,} episodes"), Text(f"{found.same:,} the same", GOOD if found.same else "")]
    parts += [Text(f"{found.diverged:,} diverged", BAD)] if found.diverged else []
    left = sum(found.problems.values())
    parts += [Text(f"{left:,} could not be played again", WARN)] if left else []
    yield dotted(parts)
    compared = ", ".join(f"{what} of {count:,}" for what, count in found.checked.items())
    if compared:
        yield Text(f"compared: {compared}", QUIET)
    for cause, count in found.problems.most_common(_LISTED):
        yield Text(f"  {count:,} not played again: {printable(cause)}", WARN)
    for one in found.divergences[:_LISTED]:
        yield Text.assemble(f"  #{one.episode} {printable(str(one.key))}: ", (str(one.divergence), BAD))
    if found.diverged:
        more = found.diverged - _LISTED
        yield from [Text(f"  and {more:,} more", BAD)] if more > 0 else []
        example = f"agentgrpo replay {shlex.quote(str(run))} {found.divergences[0].episode}"
        yield Text.assemble(("what differs: ", QUIET), example)


def _forks(rows: Sequence[EpisodeRow]) -> Table:
    table = _table("#", "episode", "policy", "reward", "success", "turns", "stop", "cause")
    for row in rows:
        table.add_row(
            Text(str(row.id), "bold"),
            Text(printable(str(row.key))),
            Text(printable(f"{row.policy}-v{row.policy_version}")),
            Text(number(row.reward)),
            mark(row.success),
            Text(str(row.turns)),
            stop_text(row.stop_reason, row.boundary),
            Text(printable(row.cause or "")),
        )
    return table


def _rescored(found: Rescored, reward: str) -> Iterator[Text]:
    yield Text.assemble(
        (printable(reward), "bold"), f": {len(found.pairs):,} episodes scored, kept as number {found.id}"
    )
    for cause, count in found.problems.most_common(_LISTED):
        yield Text(f"  {count:,} without a new score: {printable(cause)}", WARN)


def _moves(movements: Sequence[Movement]) -> Table:
    table = _table("phase", "episodes", "reward", "success", "rank correlation in groups")
    for move in movements:
        ranked = "-" if move.rank_correlation is None else f"{move.rank_correlation:+.3f} ({move.ranked_groups} groups)"
        table.add_row(
            move.phase,
            f"{move.episodes:,}",
            f"{move.reward_before:.3f} -> {move.reward_after:.3f}",
            f"{move.success_before:.1%} -> {move.success_after:.1%}",
            ranked,
        )
    return table


def _groups(movements: Sequence[Movement]) -> Iterator[Text]:
    for move in (move for move in movements if move.phase == "train" and move.groups):
        yield Text(
            f"of {move.groups:,} training groups {move.gained:,} gain variance (they would train), "
            f"{move.lost:,} lose it (they would not)"
        )


def _most(pairs: Sequence[Pair]) -> Table:
    table = _table("#", "episode that moves most", "reward", "success")
    for pair in pairs:
        table.add_row(
            Text(str(pair.row.id), "bold"),
            Text(printable(str(pair.row.key))),
            Text(f"{pair.before:.3f} -> {pair.after:.3f}", GOOD if pair.change > 0 else BAD),
            Text.assemble(mark(pair.success_before), " -> ", mark(pair.success_after)),
        )
    return table


def _repeated(found: Repeated) -> Iterator[Text]:
    origin = f"the checkpoint of step {found.start}" if found.start else "the beginning"
    first, last = found.start + 1, found.step - 1
    between = f"step {first}" if first == last else f"steps {first} to {last}"
    again = f", {between} made again on the way" if first <= last else ""
    yield Text(f"step {found.step}, from {origin}{again}")
    for name in ("loss", "grad_norm"):
        if name in found.metrics:
            yield Text(f"  {name} {found.metrics[name]!r}")
    if found.difference is None:
        yield Text.assemble(("the same to the last bit: ", GOOD), ", ".join(found.compared))
    else:
        yield Text.assemble(("it differs: ", BAD), printable(str(found.difference)))


def _table(*headings: str) -> Table:
    table = Table(box=None, header_style=QUIET, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table
