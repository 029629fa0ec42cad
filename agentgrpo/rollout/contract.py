"""What an environment gave, checked and cleaned: after this it is safe to render, to learn from and to store.

It knows the shapes of the Gymnasium contract, neither episodes nor where the environment runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any, NoReturn

import numpy as np

from agentgrpo.core import StepResult, weigh
from agentgrpo.errors import EnvFailure
from agentgrpo.tooling import encodable, one_line
from agentgrpo.types import ROLES, Json, JsonObject, Message

MAX_TEXT = 1_000_000  # characters an environment may say at once
MAX_STATE = 100 * MAX_TEXT  # likewise, of its state
_LARGEST_INT = 2**64


class Contract:
    """Checks what one environment gives; remembers its tools, which rarely change."""

    def __init__(self) -> None:
        self._tools: list[JsonObject] | None = None

    def reset(self, result: object) -> tuple[str, JsonObject]:
        """Return what `reset` gave.

        Raises:
            EnvFailure: it is not what Gymnasium's contract asks for.
        """
        if not isinstance(result, tuple) or len(result) != 2:
            _refuse("reset", result, "(observation, info)")
        return _text(result[0], "reset"), self._info(result[1], "reset")

    def step(self, result: object) -> StepResult:
        """Return what `step` gave, likewise."""
        if not isinstance(result, tuple) or len(result) != 5:
            _refuse("step", result, "(observation, reward, terminated, truncated, info)")
        obs, reward, terminated, truncated, info = result
        return (
            _text(obs, "step"),
            _number(reward, "step gave reward ="),
            _bool(terminated, "terminated"),
            _bool(truncated, "truncated"),
            self._info(info, "step"),
        )

    def _info(self, info: object, method: str) -> JsonObject:
        if not isinstance(info, Mapping):
            _refuse(f"{method}'s info", info, "a dict")
        where, reader = f"{method}'s info", _Reader()
        clean: JsonObject = {}
        if info.get("messages") is not None:
            clean["messages"] = _messages(info["messages"], where, reader)
        if info.get("tools") is not None:
            clean["tools"] = self._clean_tools(info["tools"], where, reader)
        if info.get("reward_terms"):
            clean["reward_terms"] = checked_terms(info["reward_terms"], f"{where}['reward_terms']")
        if info.get("state_hash") is not None:
            clean["state_hash"] = str(reader.plain(info["state_hash"], f"{where}['state_hash']"))
        if info.get("state_diff") is not None:
            clean["state_diff"] = _list(info["state_diff"], f"{where}['state_diff']", reader)
        return clean

    def _clean_tools(self, tools: object, where: str, reader: _Reader) -> list[JsonObject]:
        if self._tools is None or tools != self._tools:
            self._tools = _tools(tools, f"{where}['tools']", reader)
        return self._tools


class _Reader:
    """Copies data as plain JSON while there is room."""

    def __init__(self, room: int = MAX_TEXT) -> None:
        self.room = self.limit = room

    def plain(self, value: Any, where: str) -> Json:
        self._spend(len(value) if isinstance(value, str | list | tuple | Mapping) else 1, where)
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return encodable(value)
        if isinstance(value, list | tuple):
            return [self.plain(item, where) for item in value]
        if isinstance(value, Mapping):
            return {self.key(key, where): self.plain(item, where) for key, item in value.items()}
        if (isinstance(value, int) and abs(value) < _LARGEST_INT) or (
            isinstance(value, float) and math.isfinite(value)
        ):
            return value
        if isinstance(value, np.generic | np.ndarray):
            return self.plain(value.tolist(), where)
        raise EnvFailure(f"{where} holds {_show(value)}, which JSON cannot hold: give plain data")

    def key(self, key: object, where: str) -> str:
        text = str(key)
        self._spend(len(text), where)
        return encodable(text)

    def _spend(self, size: int, where: str) -> None:
        self.room -= size
        if self.room < 0:
            raise EnvFailure(f"{where} is larger than {self.limit:,} characters: cut it in the environment")


def checked_score(terms: object, weights: Mapping[str, float]) -> tuple[float, dict[str, float]]:
    """Return the weighted sum of what `score` gave, and its terms."""
    named = checked_terms(terms, "score")
    return _number(weigh(named, weights), "score gave, weighted,"), named


def plain_state(state: object) -> Json:
    """Return what `state` gave as a copy of plain JSON data."""
    return _Reader(MAX_STATE).plain(state, "state")


def checked_terms(terms: object, where: str) -> dict[str, float]:
    """Return named reward terms as finite numbers."""
    if not isinstance(terms, Mapping):
        _refuse(where, terms, "a dict of named numbers")
    reader = _Reader()
    named = {reader.key(name, where): value for name, value in terms.items()}
    return {name: _number(value, f"{where} gave {one_line(name, 80)} =") for name, value in named.items()}


def _text(obs: object, method: str) -> str:
    if not isinstance(obs, str):
        _refuse(f"{method}'s observation", obs, "a str")
    if len(obs) > MAX_TEXT:
        raise EnvFailure(
            f"{method}'s observation has {len(obs):,} characters, at most {MAX_TEXT:,}: cut it in the environment"
        )
    return encodable(obs)


def _number(value: object, what: str) -> float:
    number = value.item() if isinstance(value, np.generic) else value
    if not isinstance(number, Real) or not _is_finite(number):
        raise EnvFailure(f"{what} {_show(value)}, expected a finite number")
    return float(number)


def _is_finite(number: Real) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # an int no float can hold
        return False


def _bool(value: object, name: str) -> bool:
    if not isinstance(value, bool | np.bool_):
        _refuse(f"step's {name}", value, "True or False")
    return bool(value)


def _list(value: object, where: str, reader: _Reader) -> list[Any]:
    if not isinstance(value, list | tuple):
        _refuse(where, value, "a list")
    plain: list[Any] = reader.plain(value, where)
    return plain


def _messages(value: object, where: str, reader: _Reader) -> list[Message]:
    where = f"{where}['messages']"
    messages = _list(value, where, reader)
    for number, message in enumerate(messages):
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            _refuse(f"{where}[{number}]", message, f"a dict with a role ({', '.join(ROLES)}) and content")
        if not isinstance(message.get("content", ""), str | list | None):
            _refuse(f"{where}[{number}]['content']", message["content"], "a str")
    return messages


def _tools(value: object, where: str, reader: _Reader) -> list[JsonObject]:
    tools = _list(value, where, reader)
    for number, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            _refuse(f"{where}[{number}]", tool, "{'type': 'function', 'function': {'name': ..., 'parameters': ...}}")
        if not isinstance(function.get("parameters", {}), dict):
            _refuse(f"{where}[{number}]['function']['parameters']", function["parameters"], "a JSON schema")
    return tools


def _refuse(what: str, got: object, expected: str) -> NoReturn:
    raise EnvFailure(f"{what} is {_show(got)}, expected {expected}")


def _show(value: object) -> str:
    """Return a value as a person may read it: short, and never an error of its own."""
    name = type(value).__name__
    if not isinstance(value, str | int | float | bool | list | tuple | dict | None):
        return f"a {name}"
    try:
        text = one_line(repr(value if not isinstance(value, str) else value[:80]), 80)
    except Exception:  # what it holds has a broken repr, or is an int too long to print
        return f"a {name}"
    return text if value is None or isinstance(value, bool | float) else f"{text} ({name})"
