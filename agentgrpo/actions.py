"""Actions: the text an environment is stepped with, read into an assistant message, whatever the text is.

It does not know which tools exist. Models are parsed from sampled ids elsewhere; here arrives their canonical JSON, or
what a person typed: text with `<tool_call>{...}</tool_call>` blocks.
"""

from __future__ import annotations

import json

from agentgrpo.calls import Flaw, bad_call, check_call, loads, read_call
from agentgrpo.types import AssistantMessage, BadCall, Json, JsonObject, ToolCall


def parse_action(action: str, *, first_id: int = 0) -> AssistantMessage:
    """Read an action; never raises. Calls without an id are numbered from `first_id`.

    Args:
        action: Canonical JSON of `AssistantMessage.to_message()`, or text that may hold `<tool_call>` blocks.
        first_id: Number of the first call.
    """
    if not action.lstrip().startswith("{"):
        return _by_hand(action, first_id)
    message = loads(action)
    if isinstance(message, Flaw):
        if '"tool_calls"' not in action:  # a sentence that begins with a brace
            return _by_hand(action, first_id)
        return AssistantMessage(content="", calls=(check_call(message, f"call_{first_id}", action),))
    if "content" in message or "tool_calls" in message:
        return _canonical(message, first_id)
    return _by_hand(action, first_id)


def _canonical(message: JsonObject, first_id: int) -> AssistantMessage:
    calls = message.get("tool_calls") or []
    calls = calls if isinstance(calls, list) else [calls]
    return AssistantMessage(
        content=_text(message.get("content")),
        calls=tuple(_call(call, f"call_{first_id + index}") for index, call in enumerate(calls)),
    )


def _by_hand(text: str, first_id: int) -> AssistantMessage:
    before, *blocks = text.split("<tool_call>")
    content = [before]
    calls: list[ToolCall | BadCall] = []
    for block in blocks:
        body, end, after = block.partition("</tool_call>")
        calls.append(read_call(body, f"call_{first_id + len(calls)}", is_closed=bool(end)))
        content.append(after)
    return AssistantMessage(content="".join(content).strip(), calls=tuple(calls))


def _call(value: Json, call_id: str) -> ToolCall | BadCall:
    raw = value if isinstance(value, str) else json.dumps(value, default=repr)
    if not isinstance(value, dict):
        return check_call(value, call_id, raw)
    call_id = value["id"] if isinstance(value.get("id"), str) else call_id
    error = value.get("error")
    if not isinstance(error, dict):
        return check_call(value, call_id, raw)
    texts = {k: v for k, v in {**value, **error}.items() if isinstance(v, str)}
    kind, told = texts.get("type", "invalid_json"), texts.get("message", "")
    return bad_call(call_id, texts.get("raw", ""), kind, told, texts.get("name"))


def _text(content: Json) -> str:
    if isinstance(content, list):  # parts, of which text is the one kind known so far
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        return "".join(text for text in texts if isinstance(text, str))
    return str(content) if isinstance(content, str | int | float) else ""
