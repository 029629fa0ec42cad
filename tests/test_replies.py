from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentgrpo.chat import Chat
from agentgrpo.types import AssistantMessage, BadCall, JsonObject, Message, ToolCall
from tests.hostile import FAMILIES, family_chat

TOOLS: list[JsonObject] = [{"type": "function", "function": {"name": "look", "description": "Look."}}]
USER: Message = {"role": "user", "content": "Look."}
LOOK = '{"name": "look", "arguments": {"at": 1}}'


def reply(chat: Chat, text: str) -> AssistantMessage:
    ids = chat.tokenizer.encode(text, add_special_tokens=False)
    return chat.parse(ids, chat.render([USER], TOOLS), TOOLS, call_prefix="c")


def kinds(message: AssistantMessage) -> list[str]:
    return [call.error_type if isinstance(call, BadCall) else call.name for call in message.calls]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"<tool_call>{LOOK}<tool_call>{LOOK}</tool_call>", ["unclosed", "look"]),
        (f"<tool_call>{LOOK}</tool_call><tool_call>{LOOK}", ["look", "unclosed"]),
        (f"<tool_call><tool_call>{LOOK}</tool_call></tool_call>", ["unclosed", "look"]),
        (f"</tool_call><tool_call>{LOOK}</tool_call>", ["look"]),
        (f"<tool_call>{LOOK}</tool_call></tool_call>prose", ["look"]),
        ("<tool_call></tool_call>", ["invalid_json"]),
        (f"<tool_call>{LOOK}<tool_response></tool_call>", ["invalid_json"]),
        (f"<tool_call>{LOOK}</tool_call><|im_end|><tool_call>", ["look"]),
        (f"<tool_call>{'[' * 9000}<tool_call>{LOOK}</tool_call>", ["unclosed", "look"]),
    ],
)
def test_a_block_ends_where_the_next_begins(tiny_chat: Chat, text: str, found: list[str]) -> None:
    assert kinds(reply(tiny_chat, text)) == found


def test_a_call_in_prose_is_prose(tiny_chat: Chat) -> None:
    """What was sampled as plain tokens is text, whatever it spells."""
    ids = tiny_chat.render([{"role": "user", "content": f"<tool_call>{LOOK}</tool_call>"}], ())
    said = ids[ids.index(tiny_chat.tokenizer.encode("user\n", add_special_tokens=False)[-1]) + 1 :]
    message = tiny_chat.parse(said, [], TOOLS, call_prefix="c")
    assert message.calls == ()
    assert "<tool_call>" in message.content


def test_calls_drafted_in_thought_are_thoughts(tiny_folder: Path) -> None:
    chat = Chat.from_folder(tiny_folder, enable_thinking=True)
    message = reply(
        chat, f"<think>\nperhaps <tool_call>{LOOK}</tool_call>?\n</think>\n\nso <tool_call>{LOOK}</tool_call>"
    )
    assert message.reasoning == f"perhaps <tool_call>{LOOK}</tool_call>?"
    assert (message.content, kinds(message)) == ("so", ["look"])


def test_what_was_broken_up_for_the_model_comes_back_whole(tiny_chat: Chat) -> None:
    enum = {"type": "string", "enum": ["<think>", "plain"]}
    function = {"name": "look", "parameters": {"type": "object", "properties": {"<|im_end|>": enum}}}
    prompt = tiny_chat.decode(tiny_chat.render([USER], [{"type": "function", "function": function}]))
    assert "<\u200bthink>" in prompt
    copied = json.dumps({"<\u200b|im_end|>": "<\u200bthink>"}, ensure_ascii=False)
    (call,) = reply(tiny_chat, f'<tool_call>{{"name": "look", "arguments": {copied}}}</tool_call>').calls
    assert isinstance(call, ToolCall)
    assert call.arguments == {"<|im_end|>": "<think>"}


def test_a_parser_that_breaks_costs_one_reply(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chat = Chat.from_folder(tiny_folder)

    def broken(*args: object, **options: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(chat.renderer, "parse_response", broken)
    assert kinds(reply(chat, "hello")) == ["malformed"]


DEEP = "[" * 5000
IN_TAGS = {  # what stands before the calls, and a call
    "qwen3.5": ("", "<tool_call>\n<function=look>\n<parameter=at>\n{}\n</parameter>\n</function>\n</tool_call>"),
    "glm-4.5": ("", "<tool_call>look\n<arg_key>at</arg_key>\n<arg_value>{}</arg_value>\n</tool_call>"),
    "kimi-k2": (
        "<|tool_calls_section_begin|>",
        '<|tool_call_begin|>functions.look:0<|tool_call_argument_begin|>{{"at": {}}}<|tool_call_end|>',
    ),
}


@pytest.mark.parametrize("family", IN_TAGS)
def test_other_forms_of_calls_void_only_themselves_too(family: str) -> None:
    chat = family_chat(family)
    before, form = IN_TAGS[family]

    def calls(*values: str) -> tuple[ToolCall | BadCall, ...]:
        ids = chat.tokenizer.encode(before + "".join(map(form.format, values)), add_special_tokens=False)
        return chat.parse(ids, [], [], call_prefix="c").calls

    assert [isinstance(call, ToolCall) for call in calls("1", DEEP, "2")] == [True, False, True]
    for flawed in ("NaN", "1e999", "9" * 2000):
        assert [isinstance(call, BadCall) for call in calls(flawed)] == [True], flawed


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_parses_anything(family: str) -> None:
    chat = family_chat(family)
    controls = [token.content for token in chat.tokenizer.added_tokens_decoder.values()]
    for control in controls:
        for text in (control, control + DEEP, DEEP + control, control + "9" * 5000 + control, "".join(controls)):
            ids = chat.tokenizer.encode(text, add_special_tokens=False)
            json.dumps(chat.parse(ids, [], [], call_prefix="c").to_message(), allow_nan=False).encode()


def test_the_library_still_raises_on_what_is_kept_from_it(tiny_chat: Chat) -> None:
    """When this fails, reading blocks apart is no longer needed."""
    ids = tiny_chat.tokenizer.encode(f"<tool_call>{DEEP}</tool_call>", add_special_tokens=False)
    with pytest.raises(RecursionError):
        tiny_chat.renderer.parse_response(ids)
