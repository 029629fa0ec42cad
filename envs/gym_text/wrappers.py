"""Gymnasium wrappers that make an environment one of text: observations are described, actions are words.

They know neither chats nor tasks: they are plain Gymnasium wrappers, of use without an agent too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import gymnasium
import numpy as np
from gymnasium import spaces
from pydantic_core import to_jsonable_python

from agentgrpo.core import UnicodeText
from agentgrpo.errors import EnvError, nearest
from agentgrpo.references import load_function
from agentgrpo.tooling import one_line

View: TypeAlias = Callable[[gymnasium.Env[Any, Any], Any], str]

_COLOURED = re.compile(r"\x1b\[\d[\d;]*m(.*?)\x1b\[0?m", re.DOTALL)
_CONTROL = re.compile(r"\x1b\[[\d;?]*[A-Za-z]")


class TextObservation(gymnasium.ObservationWrapper[str, Any, Any]):
    """Describes what is observed.

    Args:
        env: The environment; made with `render_mode="ansi"` where its own picture is taken.
        render: "ansi", the environment's picture in text; "json", the observation as it is; or "module:function",
            called with the unwrapped environment and the observation.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], render: str = "ansi") -> None:
        super().__init__(env)
        self.observation_space = UnicodeText()
        own: dict[str, View] = {"ansi": self._picture, "json": _as_json}
        if render == "ansi" and env.render_mode != "ansi":
            raise EnvError(
                f"{env.unwrapped} has the render mode {env.render_mode!r}, not 'ansi': make it with "
                "render_mode='ansi' where it has that, or take the view 'json' or 'module:function'"
            )
        if render not in own and ":" not in render:
            raise EnvError(f"there is no view '{render}'; expected ansi, json or module:function")
        self._view = own.get(render) or load_function(render, "view")

    def observation(self, observation: Any) -> str:
        """Return the observation in words."""
        return self._view(self.env.unwrapped, observation)

    def _picture(self, env: gymnasium.Env[Any, Any], observation: Any) -> str:
        return plain(str(self.env.render()))


class TextAction(gymnasium.ActionWrapper[Any, str, Any]):
    """Takes actions as text. One that means nothing makes no step: the observation says what is wrong.

    Args:
        env: An environment whose observations are text.
        actions: The action of each word; or a regular expression for the whole text, whose groups are the numbers of
            the action (one for a `Discrete` space).
    """

    def __init__(self, env: gymnasium.Env[str, Any], actions: Mapping[str, Any] | str) -> None:
        super().__init__(env)
        self.action_space = UnicodeText()
        self.words: dict[str, Any] | None = None if isinstance(actions, str) else dict(actions)
        self._pattern = re.compile(actions) if isinstance(actions, str) else None
        for word, value in (self.words or {}).items():
            if not env.action_space.contains(value):
                raise EnvError(f"action '{word}' = {value!r} is not in {env.action_space}, what the environment takes")

    def action(self, action: str) -> Any:
        """Return the environment's action.

        Raises:
            ValueError: the text means none; the message is for whoever wrote it.
        """
        text = action.strip()
        if self.words is not None:
            if text not in self.words:
                got, known = one_line(text, 40) or "nothing", ", ".join(self.words)
                raise ValueError(
                    f"there is no action '{got}'; expected one of {known}.{nearest(text[:40], self.words)}"
                )
            return self.words[text]
        assert self._pattern is not None
        found = self._pattern.fullmatch(text)
        value = None if found is None else _number(self.env.action_space, found.groups())
        if value is None:
            raise ValueError(
                f"got '{one_line(text, 40)}', expected {self._pattern.pattern} within {self.env.action_space}"
            )
        return value

    def step(self, action: str) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step with the action the text means; without one nothing happens and the text is told to be wrong."""
        try:
            chosen = self.action(action)
        except ValueError as error:
            return f"error: {error}", 0.0, False, False, {"error": str(error)}
        obs, reward, terminated, truncated, info = self.env.step(chosen)
        return obs, float(reward), terminated, truncated, info


def plain(picture: str) -> str:
    """Return a coloured picture as plain text: colour often is all that shows where one is, so it becomes brackets."""
    return _CONTROL.sub("", _COLOURED.sub(r"[\1]", picture)).strip("\n")


def _number(space: spaces.Space[Any], groups: tuple[str | None, ...]) -> Any:
    """Return the numbers as an action of the space, or None if they are none."""
    try:
        value = int(groups[0] or "") if isinstance(space, spaces.Discrete) else _array(space, groups)
    except (ValueError, IndexError, OverflowError):
        return None
    return value if space.contains(value) else None


def _array(space: spaces.Space[Any], groups: tuple[str | None, ...]) -> np.ndarray[Any, Any]:
    kind = int if np.issubdtype(space.dtype or float, np.integer) else float
    return np.array([kind(group or "") for group in groups], dtype=space.dtype).reshape(space.shape or ())


def _as_json(env: gymnasium.Env[Any, Any], observation: Any) -> str:
    return json.dumps(observation, default=_plain_data)


def _plain_data(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else to_jsonable_python(value)
