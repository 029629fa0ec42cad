"""Trajectories for tests: `trajectories()` draws any (Hypothesis), `make_trajectory` builds one that reads well."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from agentgrpo.types import (
    Boundary,
    EpisodeKey,
    Failure,
    FinishReason,
    JsonObject,
    Parent,
    Phase,
    Policy,
    Span,
    StopReason,
    Trajectory,
    Turn,
)

UNIT = 2.0**-16
PHASES: tuple[Phase, ...] = ("train", "eval", "fork")
FINISHES: tuple[FinishReason, ...] = ("stop", "length", "cancelled")

numbers = st.floats(allow_nan=False)
finite = st.floats(-1e6, 1e6)
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | numbers | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
json_objects = st.dictionaries(st.text(max_size=5), json_values, max_size=3)
keys = st.builds(
    EpisodeKey,
    phase=st.sampled_from(PHASES),
    step=st.integers(0, 2**40),
    task_id=names,
    sample=st.integers(0, 1000),
    attempt=st.integers(0, 5),
)
logprobs = st.integers(-(2**31) + 1, 2**31 - 1).map(lambda multiple: multiple * UNIT)
calls = st.fixed_dictionaries({"id": names, "name": names, "arguments": json_objects}) | st.fixed_dictionaries(
    {
        "id": names,
        "name": st.none() | names,
        "raw": st.text(max_size=9),
        "error": st.just({"type": "t", "message": "m"}),
    }
)
actions = st.fixed_dictionaries(
    {"content": st.text(max_size=9), "tool_calls": st.lists(calls, max_size=2)},
    optional={"reasoning": st.text(max_size=9)},
)
messages = st.fixed_dictionaries(
    {
        "role": st.sampled_from(("system", "user", "tool")),
        "content": st.text(max_size=9) | st.lists(json_objects, max_size=2),
    },
    optional={"tool_call_id": names, "is_error": st.booleans()},
)
turns = st.builds(
    Turn,
    action=actions,
    messages=st.lists(messages, max_size=2).map(tuple),
    reward=numbers,
    state_hash=st.none() | names,
    state_diff=st.none() | st.lists(json_objects, max_size=2).map(tuple),
    generate_seconds=finite,
    env_seconds=finite,
    finish_reason=st.sampled_from(FINISHES),
    tools=st.none() | st.lists(json_objects, max_size=2).map(tuple),
)


@st.composite
def span_trees(draw: st.DrawFn) -> tuple[Span, ...]:
    """Draw any forest of spans."""
    spans = []
    for index in range(draw(st.integers(0, 6))):
        sampled = draw(st.booleans())
        ids = tuple(draw(st.lists(st.integers(0, 2**31 - 1), max_size=6)))
        values = draw(st.lists(logprobs, min_size=len(ids), max_size=len(ids)))
        spans.append(
            Span(
                parent=draw(st.integers(-1, index - 1)),
                token_ids=ids,
                sampled=sampled,
                logprobs=tuple(values) if sampled else None,
                policy_version=draw(st.integers(0, 99)) if sampled else None,
                turn=draw(st.integers(0, 9)),
            )
        )
    return tuple(spans)


def trajectories(key: st.SearchStrategy[EpisodeKey] = keys) -> st.SearchStrategy[Trajectory]:
    """Draw trajectories that a rollout could have made, and many that it could not."""
    return st.builds(
        Trajectory,
        key=key,
        env_id=names,
        seed=st.integers(0, 2**64 - 1),
        policy=st.builds(Policy, name=names, version=st.integers(0, 10**6)),
        prompt=st.lists(messages, max_size=2).map(tuple),
        tools=st.lists(json_objects, max_size=2).map(tuple),
        spans=span_trees(),
        turns=st.lists(turns, max_size=3).map(tuple),
        stop_reason=st.sampled_from(StopReason),
        reward=st.none() | numbers,
        reward_terms=st.dictionaries(names, numbers, max_size=2),
        failure=st.none() | st.builds(Failure, boundary=st.sampled_from(Boundary), cause=st.text(max_size=9)),
        forks=st.integers(0, 9),
        started_at=finite,
        seconds=finite,
        info=json_objects,
        parent=st.none() | st.builds(Parent, episode=st.integers(1, 2**40), turns=st.integers(0, 99)),
    )


def make_key(
    step: int = 3, task_id: str = "shop-12", sample: int = 0, *, phase: Phase = "train", attempt: int = 0
) -> EpisodeKey:
    return EpisodeKey(phase=phase, step=step, task_id=task_id, sample=sample, attempt=attempt)


def make_trajectory(key: EpisodeKey | None = None, *, reward: float | None = 1.0, **changes: Any) -> Trajectory:
    """Build an episode of three turns: a call that is refused, one that works, an answer."""
    turns = (
        _turn("", "cancel_order", {"order_id": "4812"}, {"error": {"type": "tool_error", "message": "no order 4812"}}),
        _turn("Let me look.", "find_orders", {"customer": "Ada Lovelace"}, [{"id": "4821", "status": "pending"}]),
        _turn("", "cancel_order", {"order_id": "4821"}, "cancelled", diff="cancelled"),
        Turn(action={"content": "Order 4821 is cancelled.", "tool_calls": []}, messages=(), reward=reward or 0.0),
    )
    fields: dict[str, Any] = {
        "key": key or make_key(),
        "env_id": "agentgrpo/Shop-v0",
        "seed": 7,
        "policy": Policy(version=3),
        "prompt": (
            {"role": "system", "content": "You work in the back office of a shop."},
            {"role": "user", "content": "Cancel the pending order of Ada Lovelace."},
        ),
        "tools": ({"type": "function", "function": {"name": "cancel_order", "parameters": {}}},),
        "spans": make_spans(),
        "turns": turns,
        "stop_reason": StopReason.ANSWERED if reward is not None else StopReason.FAILED,
        "reward": reward,
        "reward_terms": {} if reward is None else {"outcome": reward, "side_effects": 0.0},
        "failure": None if reward is not None else Failure(boundary=Boundary.ENGINE, cause="the engine is gone"),
        "started_at": 1.75e9,
        "seconds": 4.25,
    }
    return Trajectory(**(fields | changes))


def make_spans(ids: list[list[int]] | None = None) -> tuple[Span, ...]:
    """Build a chain of spans, every second one sampled, with logprobs from 0 down."""
    spans = []
    for index, span_ids in enumerate(ids or [[1, 2, 3, 4], [5, 6, 7], [8, 9], [10, 11], [12], [13, 14, 15]]):
        sampled = index % 2 == 1
        spans.append(
            Span(
                parent=index - 1,
                token_ids=tuple(span_ids),
                sampled=sampled,
                logprobs=tuple(-i * 4096 * UNIT for i in range(len(span_ids))) if sampled else None,
                policy_version=3 if sampled else None,
                turn=index // 2,
            )
        )
    return tuple(spans)


def _turn(content: str, name: str, arguments: JsonObject, result: Any, *, diff: str | None = None) -> Turn:
    is_error = isinstance(result, dict) and "error" in result
    text = result if isinstance(result, str) else json.dumps(result)
    return Turn(
        action={"content": content, "tool_calls": [{"id": "call_0", "name": name, "arguments": arguments}]},
        messages=({"role": "tool", "tool_call_id": "call_0", "name": name, "content": text, "is_error": is_error},),
        reward=0.0,
        state_diff=() if diff is None else ({"op": "replace", "path": "/orders/4821/status", "value": diff},),
        generate_seconds=0.5,
        env_seconds=0.001,
    )
