"""Conversations to an endpoint and back: history stays valid for any server, calls are read strictly."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgrpo.endpoint.wire import NoReply, action_to_wire, read_reply, to_wire
from agentgrpo.types import BadCall, JsonObject, ToolCall

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def answer(**message: Any) -> JsonObject:
    return {"choices": [{"message": message, "finish_reason": "stop"}]}


def call(name: Any = "find", arguments: Any = "{}", **more: Any) -> JsonObject:
    return {"id": "c1", "type": "function", "function": {"name": name, "arguments": arguments}, **more}


def read(*calls: Any) -> list[ToolCall | BadCall]:
    return list(read_reply(answer(content=None, tool_calls=list(calls)), "call_0").message.calls)


def test_a_call_and_its_counts_are_read() -> None:
    data = answer(content="hm", tool_calls=[call(arguments='{"name": "é"}')], reasoning_content="I think")
    data["usage"] = {"prompt_tokens": 7, "completion_tokens": 3}
    reply = read_reply(data, "call_0")
    assert reply.message.calls == (ToolCall(id="c1", name="find", arguments={"name": "é"}),)
    assert (reply.message.content, reply.message.reasoning) == ("hm", "I think")
    assert (reply.prompt_tokens, reply.completion_tokens) == (7, 3)
    assert read_reply(answer(content="x"), "c").completion_tokens is None


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        (call(arguments='{"name": '), "invalid_json"),
        (call(arguments='{"a": 1, "a": 2}'), "duplicate_key"),
        (call(arguments='{"a": NaN}'), "not_finite"),
        (call(arguments="[1]"), "invalid_arguments"),
        (call(arguments="7"), "invalid_arguments"),
        (call(arguments="[" * 300), "too_deep"),
        (call(arguments='{"a": "' + "x" * 70_000 + '"}'), "too_large"),
        (call(arguments='{"a": "\\ud800"}'), "half_character"),
        (call(name=None), "missing_name"),
        (call(name=""), "missing_name"),
        (call(name={"x": 1}), "missing_name"),
        ({"id": "c1"}, "malformed"),
        ("find", "malformed"),
        (None, "malformed"),
    ],
)
def test_a_call_nobody_can_read_voids_itself_alone(bad: Any, kind: str) -> None:
    first, second = read(bad, call(arguments='{"ok": 1}', id="c2"))
    assert isinstance(first, BadCall)
    assert first.error_type == kind
    assert second == ToolCall(id="c2", name="find", arguments={"ok": 1})


@pytest.mark.parametrize("arguments", [{}, "", None, "{}", "  "])
def test_no_arguments_are_none(arguments: Any) -> None:
    assert read(call(arguments=arguments)) == [ToolCall(id="c1", name="find", arguments={})]


def test_calls_never_share_an_id() -> None:
    ids = [c.id for c in read(call(), call(), call(id=None), call(id="has space"))]
    assert ids == ["c1", "call_0_1", "call_0_2", "call_0_3"]


@pytest.mark.parametrize("data", [None, [], {}, {"choices": []}, {"choices": [{}]}, {"choices": [{"message": "x"}]}])
def test_what_holds_no_answer_is_none(data: Any) -> None:
    with pytest.raises(NoReply, match="expected a chat completion"):
        read_reply(data, "c")


@given(JSON, JSON)
def test_nothing_a_server_sends_breaks_the_reading(message: Any, extra: Any) -> None:
    body = {**message, "tool_calls": extra} if isinstance(message, dict) else message
    try:
        reply = read_reply({"choices": [{"message": body, "finish_reason": extra}], "usage": extra}, "c")
    except NoReply:
        return
    action = reply.message.to_message()
    wired = json.loads(json.dumps(action_to_wire(action)))
    assert [c["id"] for c in wired.get("tool_calls", [])] == [c["id"] for c in action["tool_calls"]]


def test_history_keeps_unreadable_calls_in_a_form_any_server_reads() -> None:
    broken, odd = call(arguments='{"broken'), call(name="a b", id="c2")
    calls = read(broken, odd, call(arguments='{"x": 1}', id="c3"))
    wired = action_to_wire({"content": "", "tool_calls": [c.to_message() for c in calls]})
    functions = [c["function"] for c in wired["tool_calls"]]
    assert [f["name"] for f in functions] == ["unreadable", "unreadable", "find"]
    assert all(isinstance(json.loads(f["arguments"]), dict) for f in functions)
    assert action_to_wire({"content": "hi", "tool_calls": []}) == {"role": "assistant", "content": "hi"}


def test_messages_lose_what_is_ours_alone() -> None:
    tool = {"role": "tool", "tool_call_id": "c1", "content": "x", "name": "find", "is_error": True}
    assert to_wire(tool) == {"role": "tool", "tool_call_id": "c1", "content": "x"}
    assert to_wire({"role": "user", "content": "q", "is_error": False}) == {"role": "user", "content": "q"}
