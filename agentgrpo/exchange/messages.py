"""Episodes as OpenAI messages, one JSON line each, for fine-tuning: `messages` and `tools`, nothing else.

What a line cannot say truly is not written: a call nobody could read, a turn whose answer is not in the record.
Reading takes what writing gives, and what others write in this form; it knows neither files nor runs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

from agentgrpo.calls import kind_of, make_call
from agentgrpo.exchange.episode import Imported, ending_of, tells_error
from agentgrpo.exchange.plain import dump, plain
from agentgrpo.types import ROLES, EpisodeKey, Json, JsonObject, Message, Policy, ToolCall, Trajectory, Turn

_LINE_KEYS = ("messages", "tools", "parallel_tool_calls")
_MESSAGE_KEYS = ("role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content", "weight")


class NotWritten(ValueError):
    """An episode that cannot be told truly in this form; the text says why."""


def to_messages(trajectory: Trajectory) -> JsonObject:
    """Return the line of an episode.

    Raises:
        NotWritten: it holds something a line cannot say.
    """
    if not trajectory.turns:
        raise NotWritten("the agent said nothing")
    messages = _prompt(plain(trajectory.prompt))
    last = len(trajectory.turns) - 1
    for number, turn in enumerate(trajectory.turns):
        if not turn.messages and number < last:
            raise NotWritten("what the environment answered is not in the record")
        ids = {call["id"] for call in turn.action["tool_calls"]}
        messages += [_assistant(plain(turn.action)), *(_answer(plain(m), ids) for m in turn.messages)]
    tools = plain(_all_tools(trajectory))
    if not all(isinstance(_name_of(tool), str) for tool in tools):
        raise NotWritten("it was offered a tool without a name")
    return {"messages": messages} | ({"tools": tools} if tools else {})


def _prompt(prompt: Sequence[Message]) -> list[Message]:
    """Return the messages of a prompt. What an assistant says there was not sampled: weight 0, nothing to learn."""
    told: list[Message] = []
    ids: set[str] = set()
    for message in prompt:
        if message.get("role") != "assistant":
            told.append(_answer(message, ids))
            continue
        calls = [_prompt_call(call) for call in message.get("tool_calls") or ()]
        ids = {call["id"] for call in calls}
        content = {"role": "assistant", "content": _text(message.get("content"))}
        told.append(content | _some(tool_calls=calls) | {"weight": 0})
    return told


def _prompt_call(call: Json) -> JsonObject:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        raise NotWritten("a call in its prompt is no function call")
    arguments = function.get("arguments", {})
    read = make_call(function.get("name"), arguments, str(call.get("id") or ""), dump(call))
    if not isinstance(read, ToolCall):
        raise NotWritten(f"a call in its prompt cannot be read: {read.error_message}")
    return _call(read.to_message())


def _assistant(action: JsonObject) -> Message:
    if any("error" in call for call in action["tool_calls"]):
        raise NotWritten("it holds a call nobody could read")
    message: Message = {"role": "assistant", "content": action["content"]}
    reasoning = action.get("reasoning")
    return message | _some(reasoning_content=reasoning, tool_calls=[_call(call) for call in action["tool_calls"]])


def _call(call: JsonObject) -> JsonObject:
    function = {"name": call["name"], "arguments": dump(call["arguments"])}
    return {"id": call["id"], "type": "function", "function": function}


def _answer(message: Message, ids: set[str]) -> Message:
    """Return a message of the environment; an answer to no call of this turn is one of the user's."""
    role = message.get("role")
    if role == "tool" and str(message.get("tool_call_id")) in ids:
        return {
            "role": "tool",
            "tool_call_id": str(message["tool_call_id"]),
            "content": _content(message.get("content")),
        }
    told = role if role in ("system", "developer") else "user"
    name = message.get("name") if told == role and isinstance(message.get("name"), str) else None
    return {"role": told, "content": _content(message.get("content"))} | _some(name=name)


def _content(content: Json) -> Json:
    if isinstance(content, list) and content and all(map(_is_text, content)):
        return content
    return _text(content)


def _text(content: Json) -> str:
    return content if isinstance(content, str) else "" if content is None else dump(content)


def _is_text(part: Json) -> bool:
    return isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)


def _some(**values: Any) -> JsonObject:
    return {name: value for name, value in values.items() if value}


def _all_tools(trajectory: Trajectory) -> list[JsonObject]:
    """Return every tool the agent was offered; of two with one name the later."""
    offered = [*trajectory.tools, *(tool for turn in trajectory.turns for tool in turn.tools or ())]
    return list({json.dumps(_name_of(tool)): tool for tool in offered}.values())


def _name_of(tool: Mapping[str, Any]) -> Json:
    function = tool.get("function")
    return function.get("name") if isinstance(function, dict) else None


def read_messages(data: JsonObject) -> tuple[Imported, set[str]]:
    """Return the episode of a line, without a task, and the keys of it that were left out.

    Raises:
        ValueError: the line holds something an episode cannot; the text says where, what was got and what expected.
    """
    messages = data.get("messages")
    if not isinstance(messages, list) or not messages:
        _refuse("messages", messages, "a list of messages")
    offered = data.get("tools") or []
    if not isinstance(offered, list):
        _refuse("tools", offered, "a list of tools")
    tools = [_tool(tool, f"tools[{number}]") for number, tool in enumerate(offered)]
    left_out = {key for key in data if key not in _LINE_KEYS}
    for place, message in enumerate(messages):
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            _refuse(f"messages[{place}]", message, f"an object with a role ({', '.join(ROLES)})")
        if message.get("function_call"):
            _refuse(f"messages[{place}].function_call", message["function_call"], "tool_calls: this is the old form")
        left_out |= {f"messages[].{key}" for key, value in message.items() if key not in _MESSAGE_KEYS and value}
    first = next((i for i, m in enumerate(messages) if m["role"] == "assistant" and m.get("weight") != 0), None)
    if first is None:
        raise ValueError("messages: no message of an assistant with a weight other than 0, so nothing to learn")
    turns = tuple(_turns(messages, first))
    trajectory = Trajectory(
        key=EpisodeKey(phase="train", step=0, task_id="", sample=0),
        env_id="imported",
        seed=0,
        policy=Policy(name="unknown"),
        prompt=tuple(_given(message, f"messages[{place}]") for place, message in enumerate(messages[:first])),
        tools=tuple(tools),
        spans=(),
        turns=turns,
        stop_reason=ending_of(turns),
        reward=None,
        info={"endpoint": {"model": "unknown", "prompt_tokens": None, "completion_tokens": None}},
    )
    return Imported(trajectory=trajectory), left_out


def _turns(messages: Sequence[Message], first: int) -> Iterator[Turn]:
    starts = [i for i in range(first, len(messages)) if messages[i]["role"] == "assistant"]
    for start, end in zip(starts, [*starts[1:], len(messages)], strict=True):
        where = f"messages[{start}]"
        if messages[start].get("weight") == 0:
            raise ValueError(f"{where}: weight 0 after a message that is learned from; expected it before, or nowhere")
        if end == start + 1 and end < len(messages):
            raise ValueError(f"messages[{end}]: a second message of the assistant in a row; expected an answer between")
        action = _action(messages[start], where)
        names = {call["id"]: call["name"] for call in action["tool_calls"]}
        answers = [_answered(messages[i], names, f"messages[{i}]", where) for i in range(start + 1, end)]
        yield Turn(action=action, messages=tuple(answers), reward=0.0)


def _action(message: Message, where: str) -> JsonObject:
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list):
        _refuse(f"{where}.tool_calls", calls, "a list")
    read = [_read_call(call, f"{where}.tool_calls[{number}]") for number, call in enumerate(calls)]
    content = _read_content(message.get("content"), f"{where}.content")
    text = content if isinstance(content, str) else "".join(part["text"] for part in content)
    reasoning = message.get("reasoning_content")
    if not isinstance(reasoning, str | None):
        _refuse(f"{where}.reasoning_content", reasoning, "a string")
    return {"content": text, "tool_calls": read} | _some(reasoning=reasoning)


def _read_call(call: Json, where: str) -> JsonObject:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(call.get("id"), str):
        _refuse(where, call, '{"id": ..., "type": "function", "function": {"name": ..., "arguments": "{...}"}}')
    read = make_call(function.get("name"), function.get("arguments", {}), call["id"], "")
    if not isinstance(read, ToolCall):
        raise ValueError(f"{where}.function: {read.error_message}")
    return read.to_message()


def _answered(message: Message, names: Mapping[str, str], where: str, asked: str) -> Message:
    if message["role"] != "tool":
        return _given(message, where)
    call_id = message.get("tool_call_id")
    if not isinstance(call_id, str) or call_id not in names:
        _refuse(
            f"{where}.tool_call_id", call_id, f"the id of a call of {asked} ({', '.join(names) or 'it makes none'})"
        )
    content = _read_content(message.get("content"), f"{where}.content")
    told = {"role": "tool", "tool_call_id": call_id, "name": names[call_id], "content": content}
    return told | {"is_error": tells_error(content)}


def _given(message: Message, where: str) -> Message:
    """Return a message nobody is taught: as it is, without what is not known here."""
    kept: Message = {"role": message["role"], "content": _read_content(message.get("content"), f"{where}.content")}
    if message["role"] == "assistant" and message.get("tool_calls"):
        calls = _action(message, where)["tool_calls"]
        kept["tool_calls"] = [_call(call) for call in calls]
    return kept | _some(name=message.get("name"), tool_call_id=message.get("tool_call_id"))


def _read_content(content: Json, where: str) -> Any:
    if content is None or content == []:
        return ""
    if isinstance(content, str) or (isinstance(content, list) and all(map(_is_text, content))):
        return content
    _refuse(where, content, "a string, or a list of parts of type text")


def _tool(tool: Json, where: str) -> JsonObject:
    if not isinstance(tool, dict) or not isinstance(_name_of(tool), str):
        _refuse(where, tool, '{"type": "function", "function": {"name": ..., "parameters": {...}}}')
    return dict(tool)


def _refuse(where: str, got: Json, expected: str) -> NoReturn:
    text = repr(got) if isinstance(got, str | int | float) and len(repr(got)) <= 60 else kind_of(got)
    raise ValueError(f"{where}: got {text}, expected {expected}")
