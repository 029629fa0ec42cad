"""A reward that a config names: found, called with a finished episode, its answer checked.

It does not know what the reward measures, nor what becomes of an episode it cannot score.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

from agentgrpo.blocking import in_daemon
from agentgrpo.errors import ConfigError, EnvError, RewardFailure
from agentgrpo.references import load_function, load_module
from agentgrpo.rewards.episode import Episode
from agentgrpo.tooling import describe, one_line


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedReward:
    """A function of a finished episode, `def` or `async def`, that returns a number or named terms."""

    name: str
    function: Callable[..., Any]
    reference: str  # finds the function again from any folder, as far as there is such a name

    async def terms(self, episode: Episode, *, seconds: float) -> dict[str, float]:
        """Return the named terms of an episode; one number is its outcome.

        A `def` function runs in a thread of its own, several at once; when its time is over the thread is abandoned.

        Raises:
            RewardFailure: it raised, took longer than `seconds`, or gave something else.
        """
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                value = await self._call(episode)
            return self._checked(value)
        except RewardFailure:
            raise
        except (Exception, SystemExit) as error:
            is_late = isinstance(error, TimeoutError) and limit.expired()
            what = f"gave no reward within {seconds:g} s" if is_late else f"raised {describe(error)}"
            raise RewardFailure(f"{self.name} {what}") from error

    async def _call(self, episode: Episode) -> object:
        if inspect.iscoroutinefunction(self.function):
            return await self.function(episode)
        value = await in_daemon(lambda: self._run(episode), "agentgrpo-reward")
        return await value if isinstance(value, Awaitable) else value

    def _run(self, episode: Episode) -> object:
        try:
            return self.function(episode)
        except StopIteration as error:  # which no future can hold
            raise RuntimeError(f"StopIteration, from a next() without a default ({describe(error)})") from error

    def _checked(self, value: object) -> dict[str, float]:
        named = value if isinstance(value, Mapping) else {"outcome": value}
        terms = {}
        for name, term in named.items():
            if not isinstance(name, str) or not _is_number(term):
                got = f"{one_line(str(name), 80)} = {one_line(repr(term), 80)}"
                raise RewardFailure(f"{self.name} gave {got}; expected a finite number, or named ones")
            terms[name] = float(term)  # type: ignore[arg-type]
        return terms


def load_reward(name: str) -> NamedReward:
    """Find the function a config names.

    Raises:
        ConfigError: there is none.
    """
    try:
        function = load_function(name, "reward")
    except EnvError as error:
        raise ConfigError(str(error)) from error
    return NamedReward(name=name, function=function, reference=_reference(name))


def _reference(name: str) -> str:
    place, _, attribute = name.rpartition(":")
    module, is_path = load_module(place), place.endswith(".py")
    file = getattr(module, "__file__", None)
    if file is None or module.__name__ == "__main__" or ("." in place and not is_path):  # of a script, or of a package
        return name
    return f"{Path(file).resolve()}:{attribute}"


def _is_number(value: object) -> bool:
    try:
        return isinstance(value, Real) and math.isfinite(value)
    except OverflowError:  # an int no float can hold
        return False
