from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgrpo.rollout.record import Recorder
from agentgrpo.types import Boundary, Failure, Generation, Policy, StopReason, Trajectory
from tests.rollout.stages import KEY

ids = st.lists(st.integers(0, 3), min_size=1, max_size=4).map(tuple)


def recorder() -> Recorder:
    return Recorder(key=KEY, env_id="desk", seed=7, policy=Policy(version=3))


def generation(*token_ids: int) -> Generation:
    return Generation(token_ids=token_ids, logprobs=tuple(-0.25 * i for i in token_ids), finish_reason="stop")


def tokens(trajectory: Trajectory, leaf: int) -> tuple[int, ...]:
    return tuple(token for i in trajectory.path(leaf) for token in trajectory.spans[i].token_ids)


def tips(events: list[tuple[str, tuple[int, ...], int]], made: Recorder) -> Iterator[tuple[int, ...]]:
    """Play events on a recorder and yield the prompt that should stand after each."""
    seen: list[tuple[int, ...]] = [(9, 9)]
    made.start([{"role": "user", "content": "?"}], [], seen[-1])
    prompt = seen[-1]
    yield prompt
    for kind, new, choice in events:
        if kind == "sample":
            made.sampled(generation(*new))
            prompt = (*prompt, *new)
        elif kind == "extend":
            made.extend(new)
            prompt = (*prompt, *new)
        else:
            old = seen[choice % len(seen)]
            prompt = (*old[: 1 + choice % len(old)], *new)
            made.fork(prompt)
        seen.append(prompt)
        yield prompt


@given(st.lists(st.tuples(st.sampled_from(["sample", "extend", "fork"]), ids, st.integers(0, 1000)), max_size=12))
def test_the_path_is_the_prompt_at_every_moment(events: list[tuple[str, tuple[int, ...], int]]) -> None:
    made = recorder()
    for prompt in tips(events, made):
        frozen = made.freeze(StopReason.DONE)
        assert tokens(frozen, len(frozen.spans) - 1) == prompt
    frozen = made.freeze(StopReason.DONE)
    assert all(span.parent < i for i, span in enumerate(frozen.spans))
    assert frozen.forks == sum(kind == "fork" for kind, _, _ in events)
    rows = frozen.sequences()
    assert sum(sum(row.loss_mask) for row in rows) == frozen.sampled_count == made.sampled_count
    for span in frozen.spans:
        assert (span.logprobs is not None) == span.sampled == (span.policy_version == 3)


def test_a_fork_follows_the_longest_path_it_begins_with() -> None:
    made = recorder()
    made.start([], [], (1, 2))
    made.sampled(generation(3))
    made.extend((4, 5))
    made.fork((1, 2, 3, 4, 6))  # leaves in the middle of the span (4, 5)
    made.fork((1, 2, 3, 4, 5, 7))
    made.fork((8, 8))
    made.fork((1, 2, 3))  # ends where a span ends: something must be left to say
    spans = made.freeze(StopReason.DONE).spans
    assert [(span.parent, span.token_ids) for span in spans[3:]] == [
        (1, (4, 6)),
        (2, (7,)),
        (-1, (8, 8)),
        (0, (3,)),
    ]
    assert not spans[6].sampled  # the same token, this time as part of a prompt


@pytest.mark.parametrize("stop_reason", list(StopReason))
def test_only_what_ended_by_itself_or_at_a_limit_is_scored(stop_reason: StopReason) -> None:
    made = recorder()
    made.score(1, {"outcome": 1})
    frozen = made.freeze(stop_reason)
    is_scored = stop_reason not in (StopReason.FAILED, StopReason.CANCELLED)
    assert frozen.is_scored is is_scored
    assert frozen.reward_terms == ({"outcome": 1.0} if is_scored else {})
    failure = Failure(boundary=Boundary.ENV, cause="x")
    failed = made.freeze(stop_reason, failure)
    assert not failed.is_scored  # a deadline that took the environment with it
    assert (failed.failure, frozen.key, frozen.env_id, frozen.seed) == (failure, KEY, "desk", 7)
    assert frozen.seconds >= 0
    assert frozen.started_at > 1.7e9
