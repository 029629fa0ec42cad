from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentgrpo.actions import parse_action
from agentgrpo.types import AssistantMessage, BadCall, ToolCall

NAMES = st.text(min_size=1)
VALUES = st.none() | st.integers() | st.text()
CALLS = st.builds(ToolCall, id=st.text(), name=NAMES, arguments=st.dictionaries(st.text(), VALUES, max_size=3))
BAD_CALLS = st.builds(
    BadCall, id=st.text(), raw=st.text(), error_type=st.text(), error_message=st.text(), name=st.none() | NAMES
)


@given(st.builds(AssistantMessage, content=st.text(), calls=st.lists(CALLS | BAD_CALLS, max_size=3).map(tuple)))
def test_canonical_actions_come_back(message: AssistantMessage) -> None:
    assert parse_action(json.dumps(message.to_message())) == message


@settings(max_examples=200)
@given(
    st.text()
    | st.lists(st.sampled_from(["<tool_call>", "</tool_call>", '{"name": "f"', ', "arguments": {}', "}", "x"])).map(
        "".join
    )
)
def test_no_text_raises(text: str) -> None:
    message = parse_action(text)
    assert [call.id for call in message.calls] == [f"call_{i}" for i in range(len(message.calls))]
    assert len(message.calls) == text.count("<tool_call>")


def test_text_may_hold_calls() -> None:
    text = 'Let me see. <tool_call>\n{"name": "find", "arguments": {"name": "ann"}}\n</tool_call>'
    message = parse_action(text, first_id=3)
    assert message == AssistantMessage(
        content="Let me see.", calls=(ToolCall(id="call_3", name="find", arguments={"name": "ann"}),)
    )


@pytest.mark.parametrize("text", ["hello", "", "{not json", "[1]", '{"other": 1}', "{}"])
def test_other_text_is_content(text: str) -> None:
    assert parse_action(text) == AssistantMessage(content=text.strip())


@pytest.mark.parametrize(
    ("body", "error_type"),
    [
        ("<tool_call>{oops}</tool_call>", "invalid_json"),
        ("<tool_call>[]</tool_call>", "malformed"),
        ('<tool_call>{"name": "f"}', "unclosed"),
        ('<tool_call>{"arguments": {}}</tool_call>', "missing_name"),
        ('<tool_call>{"name": "f", "arguments": "x"}</tool_call>', "invalid_arguments"),
        ('{"tool_calls": 5}', "malformed"),
        ('{"tool_calls": [{"name": ""}]}', "missing_name"),
    ],
)
def test_broken_calls_say_what_is_wrong(body: str, error_type: str) -> None:
    (call,) = parse_action(body).calls
    assert isinstance(call, BadCall)
    assert call.error_type == error_type


@pytest.mark.parametrize(
    ("content", "text"), [(None, ""), ("a", "a"), ([{"type": "text", "text": "a"}, {"type": "image"}], "a"), (5, "5")]
)
def test_content_of_any_form_is_text(content: Any, text: str) -> None:
    assert parse_action(json.dumps({"content": content})).content == text


GOOD = '{"name": "f", "arguments": {}}'


def deep(levels: int) -> str:
    return "[" * levels + "]" * levels


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ('{"a": 1, "a": 2}', "duplicate_key"),
        ('{"a": NaN}', "not_finite"),
        ('{"a": "\\ud800"}', "half_character"),
        (f'{{"a": {"9" * 5000}}}', "number_too_long"),
        (f'{{"a": {deep(100)}}}', "too_deep"),
        (json.dumps({"a": "x" * 10**6}), "too_large"),
        (json.dumps({"a": [1] * 300_000}), "too_large"),
    ],
)
def test_one_bad_call_of_an_action_leaves_its_neighbours_alone(arguments: str, kind: str) -> None:
    action = f'{{"content": "so", "tool_calls": [{GOOD}, {{"name": "f", "arguments": {arguments}}}, {GOOD}]}}'
    message = parse_action(action)
    first, bad, last = message.calls
    assert (first, last) == tuple(ToolCall(id=f"call_{i}", name="f", arguments={}) for i in (0, 2))
    assert isinstance(bad, BadCall)
    assert (bad.error_type, message.content) == (kind, "so")


def test_an_action_that_cannot_be_read_is_no_answer() -> None:
    for text in (f'{{"tool_calls": {deep(5000)}}}', '{"tool_calls": [', '{"tool_calls": [], "tool_calls": []}'):
        assert [type(call) for call in parse_action(text).calls] == [BadCall]


def test_what_is_no_text_is_no_id_and_no_content() -> None:
    (call,) = parse_action(f'{{"content": {{"a": 1}}, "tool_calls": [{{"id": {deep(150)}, "name": "f"}}]}}').calls
    assert call == ToolCall(id="call_0", name="f", arguments={})
