from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgrpo.types import (
    AssistantMessage,
    BadCall,
    EpisodeKey,
    Group,
    JsonObject,
    Policy,
    Span,
    StopReason,
    Task,
    ToolCall,
    Trajectory,
    Turn,
)

KEY = EpisodeKey(phase="train", step=3, task_id="t", sample=1)


def trajectory(spans: list[Span] | None = None, **changes: Any) -> Trajectory:
    fields: dict[str, Any] = {
        "key": KEY,
        "env_id": "env",
        "seed": 0,
        "policy": Policy(),
        "prompt": (),
        "tools": (),
        "spans": tuple(spans or ()),
        "turns": (),
        "stop_reason": StopReason.DONE,
        "reward": 1.0,
    }
    return Trajectory(**(fields | changes))


@st.composite
def span_trees(draw: st.DrawFn) -> list[Span]:
    """Any forest of spans; token ids count up, so that a token's id says which token it is."""
    spans: list[Span] = []
    next_id = 0
    for index in range(draw(st.integers(0, 12))):
        sampled = draw(st.booleans())
        ids = tuple(range(next_id, next_id + draw(st.integers(0, 4))))
        next_id += len(ids)
        spans.append(
            Span(
                parent=draw(st.integers(-1, index - 1)),
                token_ids=ids,
                sampled=sampled,
                logprobs=tuple(-1.0 - token for token in ids) if sampled else None,
                policy_version=7 if sampled else None,
                turn=index,
            )
        )
    return spans


@given(span_trees())
def test_a_path_leads_from_a_root_to_its_leaf(spans: list[Span]) -> None:
    record = trajectory(spans)
    for index in range(len(spans)):
        path = record.path(index)
        assert path[-1] == index
        assert [spans[i].parent for i in path] == [-1, *path[:-1]]


@given(span_trees())
def test_leaves_are_the_spans_nothing_follows_and_their_paths_reach_every_span(spans: list[Span]) -> None:
    record = trajectory(spans)
    leaves = record.leaves()
    assert leaves == sorted(leaves)
    assert all(span.parent not in leaves for span in spans)
    assert {index for leaf in leaves for index in record.path(leaf)} == set(range(len(spans)))


@given(span_trees())
def test_each_sampled_token_is_trained_exactly_once_and_no_other_token_is(spans: list[Span]) -> None:
    rows = trajectory(spans).sequences()
    trained = Counter(token for row in rows for token, mask in zip(row.token_ids, row.loss_mask, strict=True) if mask)
    assert trained == Counter(token for span in spans if span.sampled for token in span.token_ids)


@given(span_trees())
def test_a_row_is_what_the_engine_saw_along_one_path(spans: list[Span]) -> None:
    record = trajectory(spans)
    seen = [tuple(token for i in record.path(leaf) for token in spans[i].token_ids) for leaf in record.leaves()]
    owner = {token: span for span in spans for token in span.token_ids}
    remaining = iter(seen)
    for row in record.sequences():
        assert row.token_ids in remaining  # rows stand in the order of their leaves
        assert set(row.loss_mask) <= {0, 1}
        assert row.rollout_logprobs == tuple(-1.0 - t if owner[t].sampled else 0.0 for t in row.token_ids)
        assert row.turns == tuple(owner[t].turn for t in row.token_ids)
        assert len(row.loss_mask) == len(row.token_ids)


@given(span_trees())
def test_token_counts_count_every_span_once(spans: list[Span]) -> None:
    record = trajectory(spans)
    assert record.token_count == sum(len(span.token_ids) for span in spans)
    assert record.sampled_count == sum(sum(row.loss_mask) for row in record.sequences())


def test_a_shared_sampled_span_is_context_in_the_second_row() -> None:
    prompt = Span(parent=-1, token_ids=(1, 2), sampled=False)
    shared = Span(parent=0, token_ids=(3,), sampled=True, logprobs=(-0.5,), policy_version=0)
    first = Span(parent=1, token_ids=(4,), sampled=True, logprobs=(-1.0,), policy_version=0, turn=1)
    fork = Span(parent=1, token_ids=(5,), sampled=True, logprobs=(-2.0,), policy_version=0, turn=1)
    rows = trajectory([prompt, shared, first, fork]).sequences()
    assert [(row.token_ids, row.loss_mask) for row in rows] == [
        ((1, 2, 3, 4), (0, 0, 1, 1)),
        ((1, 2, 3, 5), (0, 0, 0, 1)),
    ]


def test_a_path_without_new_sampled_tokens_is_no_row() -> None:
    prompt = Span(parent=-1, token_ids=(1,), sampled=False)
    answer = Span(parent=0, token_ids=(2,), sampled=True, logprobs=(-0.5,), policy_version=0)
    observations = [Span(parent=1, token_ids=(token,), sampled=False) for token in (3, 4)]
    assert len(trajectory([prompt, answer, *observations]).sequences()) == 1


@pytest.mark.parametrize(
    ("reward", "terms", "success"),
    [
        (1.0, {}, True),
        (0.999, {}, False),
        (None, {}, None),
        (0.4, {"outcome": 1.0, "cost": -0.6}, True),
        (1.2, {"outcome": 0.0, "bonus": 1.2}, False),
        (0.1 * 3 + 0.7, {}, True),
    ],
)
def test_success_is_the_outcome_where_there_is_one(
    reward: float | None, terms: dict[str, float], success: bool | None
) -> None:
    record = trajectory(reward=reward, reward_terms=terms)
    assert record.success is success
    assert record.is_scored is (reward is not None)


def test_truncated_are_the_four_limits() -> None:
    assert {reason.value for reason in StopReason if reason.is_truncated} == {
        "max_turns",
        "max_tokens",
        "context_full",
        "deadline",
    }


@pytest.mark.parametrize(("attempt", "text"), [(0, "train/3/t/1"), (2, "train/3/t/1.2")])
def test_an_episode_key_reads_as_a_path(attempt: int, text: str) -> None:
    assert str(dataclasses.replace(KEY, attempt=attempt)) == text


def test_a_policy_reads_as_the_adapter_name_of_its_version() -> None:
    assert str(Policy(name="defender", version=17)) == "defender-v17"


def test_the_canonical_action_keeps_calls_in_order_and_says_what_was_wrong() -> None:
    good = ToolCall(id="call_0", name="find", arguments={"name": "Ada"})
    bad = BadCall(id="call_1", raw="{", error_type="invalid_json", error_message="got '{'")
    expected: JsonObject = {
        "content": "hm",
        "tool_calls": [
            {"id": "call_0", "name": "find", "arguments": {"name": "Ada"}},
            {"id": "call_1", "name": None, "raw": "{", "error": {"type": "invalid_json", "message": "got '{'"}},
        ],
    }
    message = AssistantMessage(content="hm", calls=(good, bad))
    assert message.to_message() == expected
    assert dataclasses.replace(message, reasoning="so").to_message() == expected | {"reasoning": "so"}


@given(
    st.builds(
        AssistantMessage,
        content=st.text(),
        calls=st.lists(
            st.builds(ToolCall, id=st.text(), name=st.text(), arguments=st.dictionaries(st.text(), st.integers()))
            | st.builds(
                BadCall,
                id=st.text(),
                raw=st.text(),
                error_type=st.text(),
                error_message=st.text(),
                name=st.none() | st.text(),
            )
        ).map(tuple),
        reasoning=st.none() | st.text(min_size=1),
    )
)
def test_a_canonical_action_is_read_back(message: AssistantMessage) -> None:
    assert AssistantMessage.from_message(message.to_message()) == message


def test_calls_and_errors_add_up_over_turns() -> None:
    call = ToolCall(id="call_0", name="find", arguments={}).to_message()
    failed = Turn(action={"content": "", "tool_calls": [call, call]}, messages=({"is_error": True}, {}), reward=0.0)
    answer = Turn(action={"content": "done", "tool_calls": []}, messages=(), reward=1.0)
    record = trajectory(turns=(failed, answer))
    assert (record.call_count, record.error_count) == (2, 1)


def test_a_groups_rewards_stand_in_sample_order() -> None:
    group = Group(task=Task(id="t", row={}), trajectories=tuple(trajectory(reward=r) for r in (0.5, 0.0, 1.0)))
    assert group.rewards == [0.5, 0.0, 1.0]
