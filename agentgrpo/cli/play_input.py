"""What a person types in `env play`, read into an action or a command; and the form that asks for each argument.

It does not step anything, and knows of a screen only that lines can be read and printed.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from agentgrpo.errors import nearest
from agentgrpo.types import Json, JsonObject

COMMANDS = {
    "help": "this list",
    "tools": "the tools on offer",
    "schema": "schema NAME: what the model reads of a tool",
    "say": "say TEXT: a message without calls; it ends most episodes",
    "raw": "raw TEXT: exactly this text, as a model might write it",
    "score": "the reward terms, if the episode ended now",
    "state": "the whole state, as JSON",
    "undo": "take the last step back",
    "again": "begin this task again",
    "next": "go on to the next task",
    "quit": "leave (or Ctrl-D)",
}
_OF_TEXT = ("help", "score", "state", "undo", "again", "next", "quit")  # where all else is an action

Read: TypeAlias = Callable[[str], str]  # a prompt -> what was typed; raises EOFError
Print: TypeAlias = Callable[[str], None]


class NotUnderstood(Exception):
    """What was typed is neither a command nor a call; the message says what would be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command of the game itself, and the rest of its line."""

    name: str
    rest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """What to step the environment with."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A tool whose arguments are to be asked for."""

    function: JsonObject


def understand(line: str, tools: Sequence[JsonObject], *, is_text: bool) -> Command | Action | Form:
    """Return what a line asks for.

    Args:
        line: What was typed, not empty.
        tools: The tools on offer.
        is_text: Whether the environment takes text and not calls: then a command begins with a slash.

    Raises:
        NotUnderstood: it asks for nothing that is there.
    """
    word, _, rest = line.strip().partition(" ")
    name = word.removeprefix("/")
    if is_text:
        if word.startswith("/") and name in _OF_TEXT:
            return Command(name=name, rest=rest.strip())
        return Action(text=line)
    if word[0] in "{[<":
        return _json_line(line)
    functions = {tool["function"]["name"]: tool["function"] for tool in tools}
    numbered = dict(zip(map(str, range(1, len(tools) + 1)), functions.values(), strict=False))
    function = None if word.startswith("/") else functions.get(word) or numbered.get(word)
    if function is not None:
        return _call_line(function, rest.strip())
    if name not in COMMANDS:
        told = f"there is no tool or command '{name}'.{_nearest(name, [*functions, *COMMANDS])}"
        raise NotUnderstood(f"{told} To say something: say TEXT. For what there is: help")
    if name == "say":
        return Action(text=json.dumps({"content": rest, "tool_calls": []}))
    return Action(text=rest) if name == "raw" else Command(name=name, rest=rest.strip())


def call_forms(function: JsonObject) -> tuple[str, str]:
    """Return how a call of a tool with parameters can be written: with names, and as JSON."""
    name, properties = function["name"], function.get("parameters", {}).get("properties", {})
    values = ", ".join(f"{json.dumps(key, ensure_ascii=False)}: ..." for key in properties)
    return " ".join([name, *(f"{key}=..." for key in properties)]), f"{name} {{{values}}}"


def call_action(name: str, arguments: Json) -> Action:
    """Return the action that makes one call."""
    call = {"id": "call_0", "name": name, "arguments": arguments}
    return Action(text=json.dumps({"content": "", "tool_calls": [call]}))


def fill(function: JsonObject, read: Read, tell: Print) -> Action | None:
    """Ask for each argument of a tool; None when the person changed their mind.

    Args:
        function: The tool's schema.
        read: Asks with a prompt.
        tell: Says what was wrong.
    """
    parameters = function.get("parameters", {})
    required, arguments = set(parameters.get("required", ())), {}
    for name, schema in parameters.get("properties", {}).items():
        while True:
            typed = read(_question(name, schema, is_required=name in required)).strip()
            if typed == "/cancel":
                return None
            if not typed and name not in required:
                break
            try:
                arguments[name] = parse_value(typed, schema)
                break
            except ValueError as error:
                tell(f"{error} (or /cancel)")
    return call_action(function["name"], arguments)


def parse_value(text: str, schema: JsonObject) -> Json:
    """Return a typed value as its schema asks: text as it stands, all else as JSON.

    Raises:
        ValueError: it is no such value.
    """
    kinds = _kinds(schema)
    if "string" in kinds and not (text.startswith('"') and text.endswith('"') and len(text) > 1):
        if not text:
            raise ValueError('nothing was typed: "" is an empty text')
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{text!r} is not {' or '.join(kinds)}") from error


def _nearest(word: str, known: Sequence[str]) -> str:
    """Return what was meant: a name that begins like this comes before one that looks like it."""
    return nearest(word, [name for name in known if name.startswith(word)] or known)


def _question(name: str, schema: JsonObject, *, is_required: bool) -> str:
    choices = schema.get("enum") or ([schema["const"]] if "const" in schema else [])
    kind = " or ".join(map(str, choices)) or " or ".join(
        "text" if kind == "string" else kind for kind in _kinds(schema)
    )
    if not is_required:
        default = "" if schema.get("default") is None else f" = {json.dumps(schema['default'], ensure_ascii=False)}"
        kind += f", may be left out{default}"
    return f"  {name} ({kind}): "


def _kinds(schema: JsonObject) -> list[str]:
    if "anyOf" in schema:
        return [kind for one in schema["anyOf"] for kind in _kinds(one)]
    values = schema.get("enum") or []
    if "type" not in schema and values:
        return ["string" if all(isinstance(value, str) for value in values) else "value"]
    kind = schema.get("type", "string")
    return list(kind) if isinstance(kind, list) else [kind]


def _json_line(line: str) -> Action:
    """Return a line of JSON as an action: a whole message, or one call. What cannot be read is passed on as it is."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return Action(text=line)
    if isinstance(value, dict) and "name" in value and not {"tool_calls", "content"} & value.keys():
        return call_action(value["name"], value.get("arguments", {}))
    return Action(text=line)


def _call_line(function: JsonObject, rest: str) -> Action | Form:
    """Return a call whose arguments stand on its line, or the form that asks for them."""
    name, properties = function["name"], function.get("parameters", {}).get("properties", {})
    if not rest:
        return Form(function=function) if properties else call_action(name, {})
    try:
        if rest.startswith("{"):
            return call_action(name, json.loads(rest))
        return call_action(name, _arguments(rest, properties))
    except (ValueError, RecursionError) as error:
        forms = ", ".join(call_forms(function))
        raise NotUnderstood(
            f"these are no arguments: {error}; expected {forms}, or {name} alone to be asked"
        ) from error


def _arguments(text: str, properties: JsonObject) -> JsonObject:
    """Return arguments written as name=value; where a tool takes one only, its value is enough."""
    only = next(iter(properties)) if len(properties) == 1 else None
    if only is not None and not text.startswith(f"{only}="):
        return {only: parse_value(text, properties[only])}
    pairs = [word.partition("=") for word in shlex.split(text)]
    for word, equals, _ in pairs:
        if not equals:
            raise ValueError(f"'{word}' is not NAME=VALUE")
    return {key: parse_value(value, properties.get(key, {})) for key, _, value in pairs}
