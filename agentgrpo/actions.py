"""Actions: the text an environment is stepped with, read into an assistant message, whatever the text is.

It does not know which tools exist. Models are parsed from sampled ids elsewhere; here arrives their canonical JSON, or
what a person typed: text with `<tool_call>{...}</tool_call>` blocks.
"""

from __future__ import annotations

import json
import re

from agentgrpo.types import AssistantMessage, BadCall, Json, JsonObject, ToolCall

_CALL = re.compile(r"<tool_call>(?P<body>.*?)(?P<end></tool_call>|(?=<tool_call>)|\Z)", re.DOTALL)
_INVALID = object()  # None is valid JSON
_EXPECTED = 'expected {"name": <tool>, "arguments": {...}}'


def parse_action(action: str, *, first_id: int = 0) -> AssistantMessage:
    """Read an action; never raises. Calls without an id are numbered from `first_id`.

    Args:
        action: Canonical JSON of `AssistantMessage.to_message()`, or text that may hold `<tool_call>` blocks.
        first_id: Number of the first call.
    """
    if action.lstrip().startswith("{"):
        message = _loads(action)
        if isinstance(message, dict) and ("content" in message or "tool_calls" in message):
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
    calls: list[ToolCall | BadCall] = []
    for match in _CALL.finditer(text):
        body, call_id = match["body"].strip(), f"call_{first_id + len(calls)}"
        value = _loads(body)
        if not match["end"]:
            calls.append(_bad(call_id, body, "unclosed", "the call has no </tool_call>"))
        elif value is _INVALID:
            calls.append(_bad(call_id, body, "invalid_json", f"not valid JSON: {_EXPECTED}"))
        else:
            calls.append(_call(value, call_id))
    return AssistantMessage(content=_CALL.sub("", text).strip(), calls=tuple(calls))


def _call(value: Json, call_id: str) -> ToolCall | BadCall:
    if not isinstance(value, dict):
        return _bad(call_id, value, "invalid_json", f"got {type(value).__name__}: {_EXPECTED}")
    name, arguments, error = value.get("name"), value.get("arguments", {}), value.get("error")
    if value.get("id") is not None:
        call_id = str(value["id"])
    if isinstance(error, dict):
        raw, known_name = str(value.get("raw", "")), name if isinstance(name, str) else None
        error_type, message = str(error.get("type", "invalid_json")), str(error.get("message", _EXPECTED))
        return BadCall(id=call_id, raw=raw, error_type=error_type, error_message=message, name=known_name)
    if not isinstance(name, str) or not name:
        return _bad(call_id, value, "missing_name", f"the call has no name: {_EXPECTED}")
    if not isinstance(arguments, dict):
        got = f"arguments must be a JSON object, got {type(arguments).__name__}"
        return _bad(call_id, value, "invalid_arguments", got, name)
    return ToolCall(id=call_id, name=name, arguments=arguments)


def _bad(call_id: str, raw: Json, error_type: str, message: str, name: str | None = None) -> BadCall:
    text = raw if isinstance(raw, str) else json.dumps(raw)
    return BadCall(id=call_id, raw=text, error_type=error_type, error_message=message, name=name)


def _text(content: Json) -> str:
    if isinstance(content, list):  # parts, of which text is the one kind known so far
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return "" if content is None else str(content)


def _loads(text: str) -> Json:
    """Return the JSON value, or `_INVALID`."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # also: an integer of thousands of digits, nesting without end
        return _INVALID
