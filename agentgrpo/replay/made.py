"""What a train step made now beside what it once made: the first number that differs, to the last bit."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from agentgrpo.learner.step import LearnResult
from agentgrpo.store.episodes import finite
from agentgrpo.store.rows import EpisodeRow
from agentgrpo.types import Adapter, EpisodeKey, JsonObject

_FIRST = ("loss", "grad_norm")  # compared before the other metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A number, or text, that is not what it was."""

    step: int
    what: str
    expected: float | str | None  # on record
    got: float | str | None

    def __str__(self) -> str:
        return f"{self.what} of step {self.step}: {self.expected!r} on record, {self.got!r} now"


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A step as it was made now, and what the record has of it."""

    step: int
    learned: LearnResult
    adapter: Adapter
    optimizer: Mapping[str, Tensor]
    metrics: JsonObject  # on record: its line of metrics.jsonl
    rows: Mapping[EpisodeKey, EpisodeRow]  # on record: its episodes
    adapter_sha256: str  # on record
    checkpoint: Path | None  # of its end, where one was kept

    def compared(self) -> tuple[str, ...]:
        """Return in words what there is to compare."""
        count = sum(f"train/{name}" in self.metrics for name in self.learned.metrics)
        named = [name for name in _FIRST if f"train/{name}" in self.metrics]
        kept = ("every weight of the adapter", "every number of the optimizer") if self.checkpoint else ()
        return (
            f"{count} metrics" + (f" ({', '.join(named)}, ...)" if named else ""),
            f"advantage and filter of {len(self.learned.decisions)} episodes",
            "the adapter's hash",
            *kept,
        )


def first_difference(made: Made) -> Difference | None:
    """Return the first difference between what a step made now and what the record has of it."""
    found = (*_metrics(made), *_episodes(made), *_tensors(made))
    return found[0] if found else None


def _metrics(made: Made) -> Iterator[Difference]:
    learned = made.learned.metrics
    for name in dict.fromkeys([*(n for n in _FIRST if n in learned), *learned]):
        key = f"train/{name}"
        if key in made.metrics and not _equal(made.metrics[key], learned[name]):
            yield Difference(step=made.step, what=key, expected=made.metrics[key], got=learned[name])


def _episodes(made: Made) -> Iterator[Difference]:
    for decision in made.learned.decisions:
        row = made.rows[decision.key]
        advantage = finite(made.learned.advantages.get(decision.key))
        reason = None if decision.reason is None else str(decision.reason)
        if advantage != row.advantage:
            yield Difference(step=made.step, what=f"advantage of {row.key}", expected=row.advantage, got=advantage)
        if reason != row.filter_reason:
            yield Difference(step=made.step, what=f"filter reason of {row.key}", expected=row.filter_reason, got=reason)


def _tensors(made: Made) -> Iterator[Difference]:
    """Yield the first weight that differs where a checkpoint has them all, else that the hash does."""
    if made.checkpoint is not None:
        for what, file, tensors in (
            ("adapter", "adapter_model.safetensors", made.adapter.tensors),
            ("optimizer", "optimizer.safetensors", made.optimizer),
        ):
            yield from _weights(made.step, what, load_file(made.checkpoint / file), tensors)
    if made.adapter.sha256 != made.adapter_sha256:
        yield Difference(
            step=made.step, what="hash of the adapter", expected=made.adapter_sha256, got=made.adapter.sha256
        )


def _weights(step: int, what: str, expected: Mapping[str, Tensor], got: Mapping[str, Tensor]) -> Iterator[Difference]:
    for name in sorted(expected.keys() | got.keys()):
        if name not in expected or name not in got or expected[name].shape != got[name].shape:
            shapes = [str(list(t[name].shape)) if name in t else None for t in (expected, got)]
            yield Difference(step=step, what=f"{what} {name}", expected=shapes[0], got=shapes[1])
            continue
        # Bytes, not values: NaN equals itself, and -0.0 is not 0.0.
        one, other = (t[name].contiguous().flatten().view(torch.uint8) for t in (expected, got))
        if not torch.equal(one, other):
            place = int((one != other).nonzero()[0]) // expected[name].element_size()
            values = [float(t[name].flatten()[place]) for t in (expected, got)]
            yield Difference(step=step, what=f"{what} {name}, number {place}", expected=values[0], got=values[1])


def _equal(known: float | None, found: float) -> bool:
    if known is None:  # JSON has no such number
        return not math.isfinite(found)
    return known == found
