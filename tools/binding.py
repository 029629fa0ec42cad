"""Tools with some arguments filled in by the author: a session or an account that the model neither sees nor sets.

It knows no service; any tool can be bound.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from agentgrpo.errors import EnvError, nearest
from agentgrpo.tooling import Tool
from agentgrpo.types import Json, JsonObject


def bind(tool: Tool, **values: Json) -> Tool:
    """Return a tool that always gets these arguments; they are gone from its schema, and a model cannot give them.

    Raises:
        EnvError: the tool has no such argument.
    """
    properties: JsonObject = tool.parameters.get("properties", {})
    for name in values:
        if name not in properties:
            known = ", ".join(properties) or "none"
            raise EnvError(f"tool '{tool.name}' has no argument '{name}'; it has {known}.{nearest(name, properties)}")
    left = {name: schema for name, schema in properties.items() if name not in values}
    required = [name for name in tool.parameters.get("required", ()) if name in left]
    parameters = {key: value for key, value in tool.parameters.items() if key != "required"} | {"properties": left}

    def validate(arguments: JsonObject) -> dict[str, Any]:
        for name in arguments:
            if name in values:
                raise ValueError(f"argument '{name}': expected only {', '.join(left) or 'no arguments'}")
        return tool.validate({**arguments, **values})

    return replace(tool, parameters=parameters | ({"required": required} if required else {}), validate=validate)
