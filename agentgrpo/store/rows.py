"""What can be read of an episode file, as plain data: rows of its index, sums of its steps, one episode in full.

It knows neither SQL nor how anything is shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from itertools import islice
from typing import Any, cast, get_args

from agentgrpo.errors import UserError
from agentgrpo.types import EpisodeKey, Phase, StopReason, Trajectory


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeRow:
    """What the index knows about an episode. `reward` is None when it was not scored or is not finite."""

    id: int
    phase: Phase
    step: int
    task_id: str
    sample: int
    attempt: int
    env_id: str
    policy: str
    policy_version: int
    reward: float | None
    success: bool | None
    turns: int
    tokens: int
    sampled_tokens: int
    tool_calls: int
    tool_errors: int
    stop_reason: StopReason
    boundary: str | None
    cause: str | None
    forks: int
    started_at: float
    seconds: float
    advantage: float | None
    filter_reason: str | None
    parent: int | None = None  # of a fork: the id of the episode it was forked from, which may have been replaced since
    parent_turns: int | None = None  # how many of that one's turns it begins with

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> EpisodeRow:
        """Return a row of the table `episodes`."""
        values = {name: row[name] for name in COLUMNS}
        values["stop_reason"] = StopReason(values["stop_reason"])
        values["success"] = None if values["success"] is None else bool(values["success"])
        return cls(**values)

    @property
    def key(self) -> EpisodeKey:
        """What identifies the episode within its run."""
        return EpisodeKey(
            phase=self.phase, step=self.step, task_id=self.task_id, sample=self.sample, attempt=self.attempt
        )

    @property
    def untrained(self) -> str | None:
        """Why none of its tokens trained: its phase, its filter, or that its step is not over; None: they did."""
        if self.phase != "train":
            return self.phase
        return self.filter_reason or ("no train step yet" if self.advantage is None else None)


COLUMNS = tuple(field.name for field in fields(EpisodeRow))


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEpisode:
    """One episode in full."""

    row: EpisodeRow
    trajectory: Trajectory
    learner_logprobs: tuple[float, ...] | None = None  # in the order of TrainingRow.logprobs
    entropies: tuple[float, ...] | None = None  # likewise

    def learner_logprobs_of_spans(self) -> dict[int, tuple[float, ...]]:
        """Return the learner's logprobs by index of the span they belong to; {} when there are none."""
        return self._of_spans(self.learner_logprobs)

    def entropies_of_spans(self) -> dict[int, tuple[float, ...]]:
        """Return the entropies by index of the span they belong to; {} when there are none."""
        return self._of_spans(self.entropies)

    def _of_spans(self, trained: tuple[float, ...] | None) -> dict[int, tuple[float, ...]]:
        if trained is None:
            return {}
        values = iter(trained)
        spans = self.trajectory.spans
        found: dict[int, tuple[float, ...]] = {}
        for leaf in self.trajectory.leaves():
            for index in self.trajectory.path(leaf):
                if spans[index].sampled and index not in found:
                    found[index] = tuple(islice(values, len(spans[index].token_ids)))
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRow:
    """Sums over the episodes of one step; divide `reward` and `successes` by `scored`."""

    phase: Phase
    step: int
    episodes: int
    scored: int
    reward: float
    successes: int
    turns: int
    sampled_tokens: int
    tool_calls: int
    tool_errors: int
    failed: int
    filtered: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FacetRow:
    """Sums over those episodes of one step that have something in common.

    `facet` is what: "stop" (`stop_reason`, and the boundary after a colon), "env", "family" (tasks that differ by their
    number) or "tool" (episodes that called it). `calls` and `errors` are of that tool, else of all tools.
    """

    phase: Phase
    step: int
    facet: str
    value: str
    episodes: int
    scored: int
    reward: float
    successes: int
    calls: int
    errors: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeFilter:
    """Which episodes; None is no condition. `task_id` may hold the wildcard `*`."""

    phase: Phase | None = None
    step: int | None = None
    task_id: str | None = None
    env_id: str | None = None
    stop_reason: StopReason | None = None
    filter_reason: str | None = None
    policy_version: int | None = None
    success: bool | None = None
    failed: bool | None = None  # ended, or left without a score, by a failure, not by an unsuccessful agent
    min_reward: float | None = None
    max_reward: float | None = None
    parent: int | None = None  # forks of the episode with this id
    contains: str | None = None  # words in this order, the last may be unfinished, in any case


def parse_key(text: str) -> EpisodeKey:
    """Return the key whose text this is: phase/step/task/sample, and .attempt if there was more than one.

    Raises:
        UserError: it is not the text of a key.
    """
    try:
        phase, step, rest = text.split("/", 2)
        task_id, sample = rest.rsplit("/", 1)
        number, _, attempt = sample.partition(".")
        return EpisodeKey(
            phase=_phase(phase), step=int(step), task_id=task_id, sample=int(number), attempt=int(attempt or 0)
        )
    except ValueError as error:
        raise UserError(
            f"'{text}' names no episode: expected a row number, or phase/step/task/sample like train/3/shop-12/0."
        ) from error


def _phase(text: str) -> Phase:
    for phase in get_args(Phase):
        if text == phase:
            return cast(Phase, phase)
    raise ValueError(text)
