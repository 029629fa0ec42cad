"""Conversations as an OpenAI-compatible endpoint takes them, and its answers as ours. Nothing here raises on a model.

The calls of an answer go through the same strict reading as those parsed from sampled tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from agentgrpo.calls import Flaw, bad_call, check_call, loads, make_call, read_call
from agentgrpo.types import ROLES, AssistantMessage, BadCall, FinishReason, Json, JsonObject, Message, ToolCall

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")  # what endpoints take as the name of a function
_FORM = "expected a function call with a name and the JSON text of its arguments"
_MOST_CALLS = 128  # of one message, as OpenAI's own limit on tools


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One answer of an endpoint; tokens are None where it did not count them."""

    message: AssistantMessage
    finish_reason: FinishReason
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class NoReply(ValueError):
    """What came back holds no answer."""


def to_wire(message: Message) -> Message:
    """Return a system, user or tool message without keys that are ours alone."""
    role = message.get("role")
    plain: Message = {"role": role if role in ROLES else "user", "content": message.get("content") or ""}
    return plain | ({"tool_call_id": message.get("tool_call_id")} if role == "tool" else {})


def action_to_wire(action: JsonObject) -> Message:
    """Return the assistant message of a canonical action, as history.

    A call that could not be read stays a call, so that its result has one to belong to, but with arguments any server
    can read: chat templates load them as JSON.
    """
    message: Message = {"role": "assistant", "content": action["content"]}
    calls = [_call_to_wire(call) for call in action["tool_calls"]]
    return message | ({"tool_calls": calls} if calls else {})


def _call_to_wire(call: JsonObject) -> JsonObject:
    arguments = {"unreadable": call["raw"]} if "error" in call else call["arguments"]
    name = str(call.get("name") or "")
    function = {"name": name if _NAME.fullmatch(name) else "unreadable", "arguments": json.dumps(arguments)}
    return {"id": call["id"], "type": "function", "function": function}


def read_reply(data: Json, call_prefix: str) -> Reply:
    """Return the answer in a chat completion.

    Raises:
        NoReply: there is none in it.
    """
    choices = data.get("choices") if isinstance(data, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        raise NoReply('expected a chat completion: {"choices": [{"message": {...}}]}')
    calls = message.get("tool_calls") or []
    calls = calls if isinstance(calls, list) else [calls]
    usage = data.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    reasoning = _text(message.get("reasoning_content") or message.get("reasoning"))
    return Reply(
        message=AssistantMessage(
            content=_text(message.get("content")) or _text(message.get("refusal")),
            calls=_read_calls(calls[:_MOST_CALLS], call_prefix),
            reasoning=reasoning or None,
        ),
        finish_reason="length" if choice.get("finish_reason") == "length" else "stop",
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
    )


def _read_calls(calls: Sequence[Json], prefix: str) -> tuple[ToolCall | BadCall, ...]:
    """Read calls; each keeps the id it came with (some servers insist on their own) unless another has it."""
    read: list[ToolCall | BadCall] = []
    taken: set[str] = set()
    for number, call in enumerate(calls):
        given = call.get("id") if isinstance(call, dict) else None
        is_usable = isinstance(given, str) and _NAME.fullmatch(given) and given not in taken
        call_id = str(given) if is_usable else f"{prefix}_{number}"
        taken.add(call_id)
        read.append(_read_call(call, call_id))
    return tuple(read)


def _read_call(call: Json, call_id: str) -> ToolCall | BadCall:
    raw = json.dumps(call, ensure_ascii=False)
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        return bad_call(call_id, raw, "malformed", f"the call is no function call; {_FORM}")
    name, arguments = function.get("name"), function.get("arguments")
    if not isinstance(arguments, str):  # some servers send the object itself
        return make_call(name, {} if arguments is None else arguments, call_id, raw)
    too_large = read_call(arguments, call_id)
    if isinstance(too_large, BadCall) and too_large.error_type == "too_large":
        return too_large
    value = loads(arguments) if arguments.strip() else {}
    return check_call(value, call_id, raw) if isinstance(value, Flaw) else make_call(name, value, call_id, raw)


def _text(content: Json) -> str:
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        return "".join(part for part in parts if isinstance(part, str))
    if not isinstance(content, str):
        return ""
    return content if content.isascii() else content.encode("utf-8", "replace").decode()  # no half characters


def _count(value: Json) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
