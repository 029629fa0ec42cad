"""Episodes played again and compared with their record: one, or all of a run.

How they are played is in `environments` and, without tools, in `tokens`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from agentgrpo.activity import Activity
from agentgrpo.blocking import run_blocking
from agentgrpo.errors import TaskError, UserError
from agentgrpo.replay.compare import Replayed
from agentgrpo.replay.environments import Repetitions
from agentgrpo.replay.recorded import model_notes, open_config, open_recorded
from agentgrpo.replay.sweep import sweep
from agentgrpo.replay.tokens import TEXT_ONLY, compare_tokens
from agentgrpo.run.report import Advance, Reporter, SilentReporter
from agentgrpo.run.workbench import EnvLike, make_chat
from agentgrpo.store.reader import EpisodeReader
from agentgrpo.store.rows import StoredEpisode
from agentgrpo.store.run import RunDirectory
from agentgrpo.types import EpisodeKey

_KEPT = 100  # divergences of a run that are kept in full
_AT_ONCE = 64  # episodes in memory, where nothing is waited for

Again = Callable[[StoredEpisode], Awaitable[Replayed]]
EpisodeLike = int | str | EpisodeKey  # its number, its key, or the text of either


@dataclass(slots=True, kw_only=True)
class RunReplay:
    """What came of playing all episodes of a run again."""

    total: int = 0
    same: int = 0
    diverged: int = 0
    checked: Counter[str] = field(default_factory=Counter)  # episodes by what there was to compare
    divergences: list[Replayed] = field(default_factory=list)  # the first of them, by number
    problems: Counter[str] = field(default_factory=Counter)  # why others could not be played again

    def add(self, found: Replayed) -> None:
        """Count one."""
        self.total += 1
        self.same += found.is_same
        self.checked.update(found.checked)
        if found.problem is not None:
            self.problems[found.problem] += 1
        if found.divergence is not None:
            self.diverged += 1
            self.divergences.append(found)
            self.divergences.sort(key=lambda replayed: replayed.episode)
            del self.divergences[_KEPT:]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Way:
    """How episodes of a run are played again, and how many at once."""

    run: RunDirectory
    again: Again
    at_once: int


def replay_episode(
    run: str | Path,
    episode: EpisodeLike,
    *,
    mock_tools: bool = False,
    env: EnvLike | None = None,
    overrides: Sequence[str] = (),
    reporter: Reporter | None = None,
) -> Replayed:
    """Play an episode's recorded actions again in a fresh environment and return the first difference, if any.

    Args:
        run: The run's folder, or a folder of runs (the newest is taken).
        episode: Its number, or its key.
        mock_tools: Run no tools: take the recorded results, and compare prompts, calls, tokens and masks instead.
        env: The run's environment, where its configuration does not lead there.
        overrides: "section.key=value" strings.
        reporter: Is told what is not as it was when the run began.

    Raises:
        UserError: there is no such run or episode, what the run names is not to be found, or the episode has nothing
            to compare.
    """
    found = run_blocking(_one(run, episode, mock_tools, env, overrides, reporter or SilentReporter()))
    if found.problem is not None:
        raise UserError(f"episode #{found.episode} cannot be played again: {found.problem}")
    return found


def replay_run(
    run: str | Path,
    *,
    mock_tools: bool = False,
    env: EnvLike | None = None,
    overrides: Sequence[str] = (),
    reporter: Reporter | None = None,
) -> RunReplay:
    """Play all episodes of a run again, as many at a time as in its rollout; see `replay_episode`."""
    return run_blocking(_all(run, mock_tools, env, overrides, reporter or SilentReporter()))


async def _one(
    path: str | Path,
    episode: EpisodeLike,
    mock_tools: bool,
    env: EnvLike | None,
    overrides: Sequence[str],
    reporter: Reporter,
) -> Replayed:
    async with _way(path, mock_tools, env, overrides, reporter) as way:
        with EpisodeReader(way.run.episodes) as reader:
            stored = reader.get(episode)
        return await way.again(stored)


async def _all(
    path: str | Path, mock_tools: bool, env: EnvLike | None, overrides: Sequence[str], reporter: Reporter
) -> RunReplay:
    found = RunReplay()
    async with _way(path, mock_tools, env, overrides, reporter) as way:

        async def compare(stored: StoredEpisode, advance: Advance) -> None:
            found.add(await way.again(stored))
            advance(1, f"{found.diverged} diverged" if found.diverged else "")

        await sweep(way.run.episodes, compare, at_once=way.at_once, title="replay", reporter=reporter)
    return found


@asynccontextmanager
async def _way(
    path: str | Path, mock_tools: bool, env: EnvLike | None, overrides: Sequence[str], reporter: Reporter
) -> AsyncIterator[_Way]:
    if mock_tools:
        run, record, config = open_config(path, overrides)
        if "endpoint" in record:
            raise UserError(f"'{run.path}' has no tokens to make again: {TEXT_ONLY}. Replay it without --mock-tools")
        for note in model_notes(config, record):
            reporter.message(f"note: {note}")
        chat = make_chat(config)

        async def made_again(stored: StoredEpisode) -> Replayed:
            return compare_tokens(stored, chat)

        yield _Way(run=run, again=made_again, at_once=1)
        return
    recorded = open_recorded(path, env=env, overrides=overrides)
    for note in recorded.notes:
        reporter.message(f"note: {note}")
    async with Repetitions(recorded, activity=Activity(reporter.message)) as repetitions:

        async def played_again(stored: StoredEpisode) -> Replayed:
            try:
                return await repetitions.compared(stored)
            except TaskError as error:
                trajectory, row = stored.trajectory, stored.row
                return Replayed(episode=row.id, key=trajectory.key, turns=row.turns, problem=str(error))

        yield _Way(run=recorded.run, again=played_again, at_once=max(_AT_ONCE, repetitions.admission.limit))
