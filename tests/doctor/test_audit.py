"""The audit accepts a true record and names every kind of false one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from agentgrpo.doctor.audit import audit, differences
from agentgrpo.doctor.script import Call
from agentgrpo.types import EpisodeKey, Generation, Policy, Span, StopReason, Trajectory

SPANS = (
    Span(parent=-1, token_ids=(1, 2), sampled=False),
    Span(parent=0, token_ids=(3, 4), sampled=True, logprobs=(-0.5, -0.25), policy_version=0),
    Span(parent=1, token_ids=(5,), sampled=False, turn=1),
    Span(parent=2, token_ids=(6,), sampled=True, logprobs=(-1.0,), policy_version=0, turn=1),
)
CALLS = (
    Call(
        session="s",
        prompt_ids=(1, 2),
        generation=Generation(token_ids=(3, 4), logprobs=(-0.5, -0.25), finish_reason="stop"),
    ),
    Call(
        session="s",
        prompt_ids=(1, 2, 3, 4, 5),
        generation=Generation(token_ids=(6,), logprobs=(-1.0,), finish_reason="stop"),
    ),
)


def trajectory(*spans: Span) -> Trajectory:
    return Trajectory(
        key=EpisodeKey(phase="train", step=0, task_id="t", sample=0),
        env_id="e",
        seed=0,
        policy=Policy(),
        prompt=(),
        tools=(),
        spans=spans,
        turns=(),
        stop_reason=StopReason.DONE,
        reward=1.0,
    )


def test_a_true_record_passes() -> None:
    assert list(audit(trajectory(*SPANS), CALLS)) == []


def change(index: int, **fields: object) -> Callable[[], Trajectory]:
    spans = list(SPANS)
    spans[index] = replace(spans[index], **fields)  # type: ignore[arg-type]
    return lambda: trajectory(*spans)


@pytest.mark.parametrize(
    ("false", "said"),
    [
        (change(0, token_ids=(1, 9)), "not what the engine saw"),
        (change(3, token_ids=(7,)), "not what the engine saw"),
        (change(3, logprobs=(-2.0,)), "other logprobs"),
        (change(2, sampled=True, logprobs=(0.0,)), "2 generations, but 3 sampled spans"),
        (change(3, sampled=False, logprobs=None), "2 generations, but 1 sampled spans"),
    ],
)
def test_a_false_record_is_found(false: Callable[[], Trajectory], said: str) -> None:
    assert said in " ".join(audit(false(), CALLS))


def test_differences() -> None:
    assert differences([-1.0, -2.0], [-1.5, -2.0]) == (0.5, 0.25)
