"""Where an episode played again differs from its record: the first place, and what stands there.

Pure comparisons. It does not know how the episode was played again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from agentgrpo.replay.said import environment_score
from agentgrpo.types import EpisodeKey, Json, JsonObject, StopReason, Trajectory, Turn

ENDED_BY_ITSELF = (StopReason.DONE, StopReason.ANSWERED)
BROKEN = (StopReason.FAILED, StopReason.CANCELLED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """The first difference. `turn` counts from 1, as people see it; 0 is what the episode starts with."""

    turn: int
    what: str  # "messages", "reward", "state hash", "tokens", ...
    expected: Json  # on record
    got: Json

    def __str__(self) -> str:
        return f"{self.what} of turn {self.turn}" if self.turn else f"{self.what} at the start"


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """What came of playing one episode again. It is the same unless it has a divergence or a problem."""

    episode: int  # its row id
    key: EpisodeKey
    turns: int  # on record
    checked: tuple[str, ...] = ()  # what there was to compare
    divergence: Divergence | None = None
    note: str | None = None  # what of it is not played again
    problem: str | None = None  # why it cannot be played again at all

    @property
    def is_same(self) -> bool:
        """Whether it was played again and nothing differs."""
        return self.divergence is None and self.problem is None


def compare(recorded: Trajectory, again: Trajectory) -> Divergence | None:
    """Return the first difference in what an environment answered, did and gave; both as they are stored."""
    return next(_differences(recorded, again), None)


def compare_start(expected: Trajectory, prompt: Json, tools: Json) -> Iterator[Divergence]:
    """Yield how an episode starts otherwise than on record; one that never started has nothing to compare."""
    if not expected.prompt:
        return
    for what, known, found in (("messages", expected.prompt, prompt), ("tools", expected.tools, tools)):
        if list(known) != list(found):
            yield Divergence(turn=0, what=what, expected=list(known), got=list(found))


def compare_turn(number: int, expected: Turn, got: Turn) -> Iterator[Divergence]:
    """Yield how a turn (counted from 1) differs; what its record does not have is not compared."""
    pairs: list[tuple[str, Json, Json]] = []
    if expected.messages:  # a record from before observations were kept as messages may have none
        pairs.append(("messages", list(expected.messages), list(got.messages)))
    pairs.append(("tools", _listed(expected.tools), _listed(got.tools)))
    if expected.state_hash is not None:
        pairs.append(("state hash", expected.state_hash, got.state_hash))
    if expected.state_diff is not None:
        pairs.append(("state changes", _listed(expected.state_diff), _listed(got.state_diff)))
    pairs.append(("reward", expected.reward, got.reward))
    for what, known, found in pairs:
        if not _equal(known, found):
            yield Divergence(turn=number, what=what, expected=known, got=found)


def checked(recorded: Trajectory) -> tuple[str, ...]:
    """Return what a record has to compare with."""
    turns = recorded.turns
    names = {
        "messages": any(turn.messages for turn in turns),
        "rewards": bool(turns),
        "state hashes": any(turn.state_hash is not None for turn in turns),
        "state changes": any(turn.state_diff is not None for turn in turns),
        "reward terms": recorded.is_scored,
    }
    return tuple(name for name, is_there in names.items() if is_there)


def _differences(recorded: Trajectory, again: Trajectory) -> Iterator[Divergence]:
    if again.prompt:
        yield from compare_start(recorded, list(again.prompt), list(again.tools))
    for number, (expected, got) in enumerate(zip(recorded.turns, again.turns, strict=False), start=1):
        yield from compare_turn(number, expected, got)
    yield from _end(recorded, again)
    if recorded.is_scored:
        yield from _score(recorded, again)


def _end(recorded: Trajectory, again: Trajectory) -> Iterator[Divergence]:
    count, played = len(recorded.turns), len(again.turns)
    if played < count:
        # A turn that failed has no record of its own.
        broke = again.failure is not None
        yield Divergence(turn=played + broke, what="end", expected="goes on", got=_how(again))
    elif recorded.stop_reason not in BROKEN and again.stop_reason is not recorded.stop_reason:
        goes_on = again.stop_reason is StopReason.CANCELLED
        yield Divergence(
            turn=count, what="end", expected=str(recorded.stop_reason), got="goes on" if goes_on else _how(again)
        )


def _score(recorded: Trajectory, again: Trajectory) -> Iterator[Divergence]:
    (reward, terms), (reward_now, terms_now) = environment_score(recorded), environment_score(again)
    if not _equal(dict(terms), dict(terms_now)):
        yield Divergence(turn=len(recorded.turns), what="reward terms", expected=dict(terms), got=dict(terms_now))
    if not _equal(reward, reward_now):
        yield Divergence(turn=len(recorded.turns), what="reward of the episode", expected=reward, got=reward_now)


def _listed(values: tuple[JsonObject, ...] | None) -> Json:
    return None if values is None else list(values)


def _how(trajectory: Trajectory) -> str:
    failure = trajectory.failure
    return f"{trajectory.stop_reason}" + (f" at the {failure.boundary}: {failure.cause}" if failure else "")


def _equal(one: Json, other: Json) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return one == other or (math.isnan(one) and math.isnan(other))
    return bool(one == other)
