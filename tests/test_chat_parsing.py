"""What a model sampled, read: calls good and bad, cut off, hostile; and completions read back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentgrpo.chat import Chat, assistant_message
from agentgrpo.types import AssistantMessage, BadCall, JsonObject, ToolCall
from tests.conversations import CALLS, RESULTS, TOOLS, USER

GOOD = '<tool_call>\n{"name": "press", "arguments": {"digit": 1}}\n</tool_call>'


def parse(chat: Chat, text: str) -> AssistantMessage:
    ids = chat.tokenizer.encode(text, add_special_tokens=False)
    return chat.parse(ids, chat.render([USER], TOOLS), TOOLS, call_prefix="call_0")


@pytest.mark.parametrize(
    ("broken", "error_type", "name"),
    [
        ('{"name": "press", "arguments": {', "invalid_json", None),
        ("press 3", "invalid_json", None),
        ('{"arguments": {"digit": 3}}', "missing_name", None),
        ('{"name": "", "arguments": {}}', "missing_name", None),
        ('{"name": 5, "arguments": {}}', "missing_name", None),
        ("[1]", "malformed", None),
        ('{"name": "press", "arguments": "three"}', "invalid_arguments", "press"),
        ('{"name": "press", "arguments": [3]}', "invalid_arguments", "press"),
        ('{"name": "press", "arguments": null}', "invalid_arguments", "press"),
    ],
)
def test_one_bad_call_leaves_its_neighbours_alone(
    tiny_chat: Chat, broken: str, error_type: str, name: str | None
) -> None:
    message = parse(tiny_chat, f"well\n{GOOD}\n<tool_call>\n{broken}\n</tool_call>\n{GOOD}<|im_end|>")
    first, bad, last = message.calls
    assert first == ToolCall(id="call_0_0", name="press", arguments={"digit": 1})
    assert last == ToolCall(id="call_0_2", name="press", arguments={"digit": 1})
    assert isinstance(bad, BadCall)
    assert (bad.id, bad.error_type, bad.name) == ("call_0_1", error_type, name)
    assert "expected" in bad.error_message
    assert bad.raw == broken
    assert message.content == "well"


def test_a_call_cut_off_is_bad_and_the_one_before_it_good(tiny_chat: Chat) -> None:
    good, bad = parse(tiny_chat, GOOD + '<tool_call>\n{"name": "pre').calls
    assert isinstance(good, ToolCall)
    assert isinstance(bad, BadCall)
    assert bad.error_type == "unclosed"


def test_arguments_in_a_string_are_read(tiny_chat: Chat) -> None:
    text = '<tool_call>\n{"name": "press", "arguments": "{\\"digit\\": 3}"}\n</tool_call>'
    assert parse(tiny_chat, text).calls == (ToolCall(id="call_0_0", name="press", arguments={"digit": 3}),)


def test_lone_surrogates_do_not_break_the_next_prompt(tiny_chat: Chat) -> None:
    message = parse(tiny_chat, '<tool_call>\n{"name": "pr\\udfff", "arguments": {"digit": "\\ud800"}}\n</tool_call>')
    json.dumps(message.to_message(), ensure_ascii=False).encode()
    tiny_chat.render([USER, assistant_message(message.to_message()), USER], ())


@pytest.mark.parametrize(
    ("text", "kind"),
    [("[" * 4000, "too_deep"), ('{"name": "press", "arguments": {"digit": ' + "9" * 5000 + "}}", "number_too_long")],
)
def test_what_no_parser_survives_voids_itself_alone(tiny_chat: Chat, text: str, kind: str) -> None:
    message = parse(tiny_chat, f"so\n{GOOD}<tool_call>\n{text}\n</tool_call>{GOOD}")
    first, bad, last = message.calls
    assert message.content == "so"
    assert isinstance(first, ToolCall)
    assert isinstance(last, ToolCall)
    assert isinstance(bad, BadCall)
    assert bad.error_type == kind


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_parsing_is_total(tiny_chat: Chat, data: st.DataObject) -> None:
    """Any ids parse to a message whose canonical JSON can be sent, and whose turn can be followed by another."""
    vocabulary = len(tiny_chat.tokenizer.inner)
    controls = sorted(tiny_chat.tokenizer.get_added_vocab().values())
    token = st.one_of(st.integers(0, vocabulary - 1), st.sampled_from(controls))
    ids = data.draw(st.lists(token, max_size=40))
    prompt = tiny_chat.render([USER], TOOLS)
    message = tiny_chat.parse(ids, prompt, TOOLS, call_prefix="c")
    json.dumps(message.to_message(), ensure_ascii=False).encode()
    extended = tiny_chat.extend(prompt, ids, RESULTS[:1], TOOLS)
    if extended is None:
        tiny_chat.render([USER, assistant_message(message.to_message()), *RESULTS[:1]], TOOLS)
    else:
        assert extended[: len(prompt) + len(ids)] == prompt + ids


actions = st.builds(
    lambda content, calls: {
        "content": content,
        "tool_calls": [
            {"id": f"c_{i}", "name": name, "arguments": arguments} for i, (name, arguments) in enumerate(calls)
        ],
    },
    st.sampled_from(["", "I press 3.", "done: ключ"]),
    st.lists(
        st.tuples(
            st.sampled_from(["press", "find_locker"]),
            st.dictionaries(
                st.sampled_from(["digit", "name"]),
                st.one_of(st.integers(-99, 99), st.booleans(), st.text(max_size=12), st.lists(st.none(), max_size=2)),
            ),
        ),
        max_size=3,
    ),
)


@pytest.mark.parametrize("thinking", [None, True, False])
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(action=actions)
def test_a_completion_parses_back_to_its_action(tiny_folder: Path, thinking: bool | None, action: JsonObject) -> None:
    chat = Chat.from_folder(tiny_folder, enable_thinking=thinking)
    ids = chat.completion(action)
    assert ids[-1] in chat.stop_token_ids
    parsed = chat.parse(ids, chat.render([USER], TOOLS), TOOLS, call_prefix="c").to_message()
    assert {k: v for k, v in parsed.items() if k != "reasoning"} == action


def test_a_completion_keeps_its_thinking(tiny_folder: Path) -> None:
    chat = Chat.from_folder(tiny_folder, enable_thinking=True)
    action = {"content": "ok", "tool_calls": [], "reasoning": "three"}
    parsed = chat.parse(chat.completion(action), chat.render([USER], TOOLS), TOOLS, call_prefix="c")
    assert parsed.to_message() == action


def test_bad_calls_stand_in_history_as_they_were_written() -> None:
    bad = BadCall(id="c", raw="<tool_call>nonsense", error_type="invalid_json", error_message="...").to_message()
    message = assistant_message({"content": "so ", "tool_calls": [bad, CALLS[0]]})
    assert message["content"] == "so <tool_call>nonsense"
    assert [call["function"]["name"] for call in message["tool_calls"]] == ["press"]
