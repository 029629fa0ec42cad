"""Which Gymnasium environment is played: how it is made, what its actions are called, which starts it has.

It does not know tools, rewards or agents.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import EnumMeta
from functools import lru_cache
from typing import Any

import gymnasium
from gymnasium import spaces

from agentgrpo.envs.gym_text.wrappers import TextObservation
from agentgrpo.envs.seeded import seeded_tasks
from agentgrpo.errors import AgentGRPOError, EnvError
from agentgrpo.references import load_function
from agentgrpo.tasks import load_tasks
from agentgrpo.tooling import describe
from agentgrpo.types import JsonObject, Task

TRAIN, HELDOUT = 1000, 200  # most tasks


@dataclass(frozen=True, slots=True, kw_only=True)
class Game:
    """A Gymnasium environment, described in words. Its arguments are kept as JSON, so that games can be compared."""

    id: str
    make_args: str
    view: str

    @classmethod
    def of(cls, id: str, make_args: Mapping[str, Any] | None, view: str) -> Game:
        """Return the game of a config's words."""
        return cls(id=id, make_args=json.dumps(make_args or {}), view=view)

    def make(self, seed: int) -> TextObservation:
        """Make the environment a seed is played in.

        Raises:
            EnvError: it cannot be made.
        """
        kwargs = self.arguments(seed)
        if self.view == "ansi":
            kwargs["render_mode"] = "ansi"
        try:
            env = gymnasium.make(self.id, disable_env_checker=True, **kwargs)
            _quieten()
            return TextObservation(env, self.view)
        except AgentGRPOError:
            raise
        except Exception as error:  # its package is missing, its arguments do not fit, it breaks
            raise EnvError(
                f"cannot make the Gymnasium environment '{self.id}': {describe(error)}; expected an id Gymnasium "
                "knows, or 'package:id' of a package that is installed"
            ) from error

    def arguments(self, seed: int) -> JsonObject:
        """Return the environment's own arguments for a seed."""
        return {name: _value(name, value, seed) for name, value in json.loads(self.make_args).items()}

    @property
    def is_remade(self) -> bool:
        """Whether each seed has an environment of its own."""
        return any(map(_is_call, json.loads(self.make_args).values()))


@lru_cache(maxsize=8)
def tasks_of(game: Game, split: str) -> tuple[Task, ...]:
    """Return the tasks of `train` or `heldout` (`seeded.seeded_tasks`)."""
    env = game.make(0)

    def start_of(seed: int) -> str:
        return repr(game.arguments(seed)) if game.is_remade else str(env.reset(seed=seed)[0])

    rows = seeded_tasks(start_of, TRAIN, HELDOUT)
    env.close()
    return load_tasks(rows[split], split=split)


def words_of(env: gymnasium.Env[Any, Any], actions: Any) -> dict[str, Any] | str:
    """Return the action of each word, or the pattern of actions that are numbers.

    Args:
        env: The environment.
        actions: Actions by word, words in the order of the actions, a pattern, or None: the environment's own names of
            its actions, else their numbers.

    Raises:
        EnvError: the environment has other actions.
    """
    space, names = env.action_space, getattr(env.unwrapped, "actions", None)
    if isinstance(actions, str):
        return actions
    if isinstance(actions, Mapping):
        return dict(actions)
    if not isinstance(space, spaces.Discrete):
        raise EnvError(f"{env.unwrapped} takes {space}: give a pattern of numbers as actions")
    if actions is None and isinstance(names, EnumMeta):
        members: dict[str, Any] = dict(names.__members__)
        return {name: int(member.value) for name, member in members.items()}
    values = range(int(space.start), int(space.start + space.n))
    words = list(map(str, values if actions is None else actions))
    if len(words) != len(values):
        raise EnvError(f"{env.unwrapped} has {len(values)} actions, {len(words)} words are given: {', '.join(words)}")
    return dict(zip(words, values, strict=True))


def _quieten() -> None:
    """Stop BabyAI from printing each start it rejects: thousands of lines, for which it has no switch."""
    generator = sys.modules.get("minigrid.envs.babyai.core.roomgrid_level")
    if generator is not None:
        setattr(generator, "print", lambda *words: None)  # noqa: B010 (its own name, before the built-in one)


def _is_call(value: Any) -> bool:
    return isinstance(value, Mapping) and "call" in value


def _value(name: str, value: Any, seed: int) -> Any:
    """Return an argument of the environment; {"call": "module:function", ...} is made anew from each seed."""
    if not _is_call(value):
        return value
    given: JsonObject = {key: item for key, item in value.items() if key != "call"}
    function = load_function(value["call"], f"make_args.{name}.call")
    try:
        return function(seed=seed, **given)
    except Exception as error:
        raise EnvError(f"make_args.{name}: {value['call']}(seed={seed}, **{given}) raised {describe(error)}") from error
