"""Solvers of Gymnasium environments: for those that publish their transitions, and for BabyAI, whose own bot it is.

They know the environment's hidden state, and neither its words nor its tasks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import gymnasium
import numpy as np
from numpy.typing import NDArray

_DISCOUNT = 0.99  # below 1, so that the shorter way is the better one
_SWEEPS = 10_000
_TOLERANCE = 1e-9


class Solver(Protocol):
    """Chooses the actions of one episode."""

    def choose(self, last: int | None) -> int:
        """Return what to do now; `last` is what was done before, None at the start."""
        ...


def solver_of(env: gymnasium.Env[Any, Any]) -> Callable[[], Solver] | None:
    """Return what makes a solver for the episode an environment is in, or None if nobody knows how to solve it."""
    inner: Any = env.unwrapped
    if isinstance(getattr(inner, "P", None), dict):
        return lambda: _Planner(inner)
    is_babyai = any(base.__module__ == "minigrid.envs.babyai.core.roomgrid_level" for base in type(inner).__mro__)
    return (lambda: _Bot(inner)) if is_babyai else None


class _Planner:
    """Follows the best policy for a table of transitions, {state: {action: [(probability, state, reward, ended)]}}."""

    def __init__(self, env: Any) -> None:
        self._env, self._best = env, best_actions(env.P)

    def choose(self, last: int | None) -> int:
        return int(self._best[int(self._env.s)])


class _Bot:
    """BabyAI's own bot, which plans again after whatever was done."""

    def __init__(self, env: Any) -> None:
        from minigrid.utils.baby_ai_bot import BabyAIBot

        self._bot = BabyAIBot(env)

    def choose(self, last: int | None) -> int:
        return int(self._bot.replan(last))


def best_actions(table: dict[int, dict[int, list[tuple[float, int, float, bool]]]]) -> NDArray[np.intp]:
    """Return the best action in each state: value iteration (Sutton and Barto, Reinforcement Learning, section 4.4)."""
    ways = max(len(outcomes) for actions in table.values() for outcomes in actions.values())
    shape = (len(table), len(next(iter(table.values()))), ways)
    chance, reward, goes_on = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    follows = np.zeros(shape, dtype=np.intp)
    for state, actions in table.items():
        for action, outcomes in actions.items():
            for way, (probability, after, gain, ended) in enumerate(outcomes):
                place = (state, action, way)
                chance[place], follows[place], reward[place] = probability, after, gain
                goes_on[place] = not ended
    value = np.zeros(shape[0])
    for _ in range(_SWEEPS):
        worth = (chance * (reward + _DISCOUNT * goes_on * value[follows])).sum(axis=2)
        before, value = value, worth.max(axis=1)
        if np.abs(value - before).max() < _TOLERANCE:
            break
    best: NDArray[np.intp] = np.argmax(worth, axis=1)
    return best
