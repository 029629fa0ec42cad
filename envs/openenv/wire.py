"""OpenEnv's data and ours: actions and MCP tools as tools, observations and results as text.

It knows no connection.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from agentgrpo.errors import ToolError, ToolFailure
from agentgrpo.tooling import Tool
from agentgrpo.types import Json, JsonObject

_FOREVER = 3600.0  # seconds: the deadline of the session comes first


def make_tool(name: str, description: Any, parameters: JsonObject, function: Callable[..., Any]) -> Tool:
    """Return a tool of the server; it is the server that checks the arguments."""
    return Tool(
        name=name,
        description=str(description or ""),
        parameters=parameters,
        function=function,
        validate=dict,
        is_async=True,
        deadline=_FOREVER,
    )


def action_fields(schema: JsonObject) -> JsonObject:
    """Return the schema of an action as that of a tool's arguments."""
    fields = {name: field for name, field in schema.get("properties", {}).items() if name != "metadata"}
    required = [name for name in schema.get("required", ()) if name in fields]
    kept = {"type": "object", "properties": fields, "required": required, "$defs": schema.get("$defs")}
    return {name: value for name, value in kept.items() if value or name == "properties"}


def result_of(name: str, observation: JsonObject) -> str:
    """Return what a call of an MCP tool answered.

    Raises:
        ToolError: the tool said no.
        ToolFailure: it could not be reached.
    """
    error, result = observation.get("error"), observation.get("result")
    if isinstance(error, dict):
        kind = ToolFailure if error.get("error_type") == "transport_error" else ToolError
        raise kind(str(error.get("message") or f"{name} failed"))
    if not isinstance(result, dict) or not isinstance(result.get("content"), list):
        return text_of(result)
    parts = [part["text"] for part in result["content"] if isinstance(part, dict) and isinstance(part.get("text"), str)]
    if result.get("is_error"):
        raise ToolError("\n".join(parts) or f"{name} failed")
    return "\n".join(parts) or text_of(result.get("data"))


def text_of(observation: Json) -> str:
    """Return an observation as text: what a server of ours wrote, or its only field, as it is; else JSON."""
    if isinstance(observation, str):
        return observation
    if not isinstance(observation, dict):
        return "" if observation is None else json.dumps(observation, ensure_ascii=False)
    if "messages" in observation and isinstance(observation.get("text"), str):
        return str(observation["text"])
    filled = {name: value for name, value in observation.items() if value is not None}
    only = next(iter(filled.values())) if len(filled) == 1 else None
    if isinstance(only, str):
        return only
    return json.dumps(filled, ensure_ascii=False) if filled else ""
