"""Messages of verifiers from ours and ours from theirs, and the trace that theirs are kept in.

It does not know who speaks when.
"""

from __future__ import annotations

import json
from typing import Any

from agentgrpo.types import AssistantMessage, JsonObject, Message, ToolCall


def new_trace(task: Any) -> Any:
    """Return an empty trace of a task."""
    from verifiers.v1 import AgentConfig, AgentInfo, Trace, TraceTask
    from verifiers.v1.state import state_cls

    about = TraceTask(type=type(task).__name__, data=task.data, key=task.key, hash=task.hash)
    return Trace(task=about, state=state_cls(type(task))(), agent=AgentInfo(config=AgentConfig()))


def opening(task: Any) -> list[Any]:
    """Return the messages a task begins with."""
    from verifiers.v1 import SystemMessage, UserMessage

    system = [SystemMessage(content=task.data.system_prompt)] if task.data.system_prompt else []
    prompt = task.data.prompt
    return [*system, *([UserMessage(content=prompt)] if isinstance(prompt, str) else prompt or ())]


def message_of(said: Any) -> JsonObject:
    """Return a message of verifiers as ours."""
    parts = [said.content] if isinstance(said.content, str) else [getattr(p, "text", "") for p in said.content or ()]
    return {"role": said.role, "content": "".join(parts)}


def reply_of(said: AssistantMessage) -> Any:
    """Return what the agent said as a message of verifiers; calls that could not be read are not in it."""
    from verifiers.v1 import AssistantMessage as TheirMessage
    from verifiers.v1 import ToolCall as TheirCall

    calls = [
        TheirCall(id=call.id, name=call.name, arguments=json.dumps(call.arguments))
        for call in said.calls
        if isinstance(call, ToolCall)
    ]
    return TheirMessage(content=said.content, tool_calls=calls or None)


def result_of(message: Message) -> Any:
    """Return a tool's result as a message of verifiers."""
    from verifiers.v1 import ToolMessage

    return ToolMessage(**{key: message[key] for key in ("tool_call_id", "name", "content")})
