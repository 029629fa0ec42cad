from __future__ import annotations

import json
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from agentgrpo.rollout.turn import action_text, record_turn
from agentgrpo.types import AssistantMessage, BadCall, StopReason, ToolCall
from tests.rollout.stages import LIMITS

MESSAGE = AssistantMessage(
    content="so é",
    calls=(
        ToolCall(id="a", name="echo", arguments={"z": 1, "b": [None]}),
        BadCall(id="b", raw="{", error_type="unclosed", error_message="cut"),
    ),
)


@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 50), st.integers(0, 60), st.integers(0, 60))
def test_room_never_crosses_a_limit_and_names_the_one_it_meets(
    max_tokens: int, max_turn_tokens: int, context: int, prompt: int, sampled: int
) -> None:
    limits = replace(LIMITS, max_tokens=max_tokens, max_turn_tokens=max_turn_tokens, context_length=context)
    room, reason = limits.room(prompt, sampled)
    bounds = {
        "context": context - prompt,
        "episode": max_tokens - sampled,
        "turn": max_turn_tokens,
    }
    assert room == max(0, min(bounds.values()))
    is_context = bounds["context"] == min(bounds.values())
    assert reason is (StopReason.CONTEXT_FULL if is_context else StopReason.MAX_TOKENS)


def test_the_action_is_canonical_json_or_the_bare_text() -> None:
    assert json.loads(action_text(MESSAGE, "message")) == MESSAGE.to_message()
    assert "é" in action_text(MESSAGE, "message")
    assert action_text(MESSAGE, "text") == MESSAGE.content


def test_a_turn_keeps_what_the_environment_told() -> None:
    info = {
        "messages": [{"role": "tool", "content": "x", "is_error": True}],
        "state_hash": "h",
        "state_diff": [{"op": "add", "path": "/a", "value": 1}],
    }
    turn = record_turn(MESSAGE, "length", 0.5, info, generate_seconds=1.0, env_seconds=2.0)
    assert (turn.call_count, turn.error_count, turn.reward) == (2, 1, 0.5)
    assert (turn.state_hash, turn.state_diff, turn.finish_reason) == (
        "h",
        ({"op": "add", "path": "/a", "value": 1},),
        "length",
    )
    assert (turn.generate_seconds, turn.env_seconds) == (1.0, 2.0)


def test_what_the_environment_did_not_tell_is_unknown_and_not_empty() -> None:
    silent = record_turn(MESSAGE, "length", 0.0, {}, generate_seconds=0.0, env_seconds=0.0)
    assert (silent.messages, silent.state_hash, silent.state_diff) == ((), None, None)
    unchanged = record_turn(MESSAGE, "length", 0.0, {"state_diff": []}, generate_seconds=0.0, env_seconds=0.0)
    assert unchanged.state_diff == ()
