"""Conversations with one tool, and what a chat makes of them."""

from __future__ import annotations

from typing import Any

from agentgrpo.chat import Chat, assistant_message
from agentgrpo.types import JsonObject, Message

TOOLS: list[JsonObject] = [
    {
        "type": "function",
        "function": {
            "name": "press",
            "description": "Press one digit.",
            "parameters": {
                "type": "object",
                "properties": {"digit": {"type": "integer", "description": "The digit."}},
                "required": ["digit"],
            },
        },
    }
]
SYSTEM: Message = {"role": "system", "content": "Press the shown digit."}
USER: Message = {"role": "user", "content": "digit: 7"}
CALLS: list[JsonObject] = [
    {"id": "call_0", "name": "press", "arguments": {"digit": 7}},
    {"id": "call_1", "name": "press", "arguments": {"digit": 3}},
]
RESULTS: list[Message] = [
    {"role": "tool", "tool_call_id": "call_0", "name": "press", "content": "digit: 3", "is_error": False},
    {"role": "tool", "tool_call_id": "call_1", "name": "press", "content": "done", "is_error": False},
]
PRESSED = assistant_message({"content": "I press.", "tool_calls": CALLS})


def control_ids(chat: Chat, ids: list[int]) -> list[int]:
    """Return the control tokens among these."""
    controls = set(chat.tokenizer.get_added_vocab().values())
    return [i for i in ids if i in controls]


def template_ids(chat: Chat, messages: list[Message], tools: list[JsonObject], **options: Any) -> list[int]:
    """Return what the model's own template makes of a conversation."""
    plain = [{k: v for k, v in m.items() if k != "is_error"} for m in messages]
    ids = chat.tokenizer.apply_chat_template(
        plain, tools=[*tools] or None, add_generation_prompt=True, return_dict=False, **options
    )
    return list(ids)
