"""One Gymnasium environment being played: episodes from seeds, moves in words, what they earned.

It does not know chats: a move that means nothing is a ToolError, whoever made it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from agentgrpo.envs.gym_text.game import Game, words_of
from agentgrpo.envs.gym_text.oracles import solver_of
from agentgrpo.envs.gym_text.wrappers import TextAction
from agentgrpo.errors import EnvError, ToolError


class Play:
    """A game and the episode it is in.

    Args:
        game: What is played.
        actions: Words of the actions (`game.words_of`).
    """

    def __init__(self, game: Game, actions: Any) -> None:
        self.game, self._actions = game, actions
        self.moves: list[str] = []
        self.rewards: list[float] = []
        self.is_ended = self.is_cut = False  # by the environment: terminated, truncated
        self._env = self._make(0)

    @property
    def words(self) -> tuple[str, ...] | None:
        """The words of the actions; None where an action is numbers."""
        return None if self._env.words is None else tuple(self._env.words)

    @property
    def can_be_solved(self) -> bool:
        """Whether there is a solver for it."""
        return solver_of(self._env) is not None

    def start(self, seed: int) -> str:
        """Begin an episode and return what is seen."""
        if self.game.is_remade:
            self._env.close()
            self._env = self._make(seed)
        self.moves, self.rewards = [], []
        self.is_ended = self.is_cut = False
        return str(self._env.reset(seed=seed)[0])

    def move(self, action: str) -> str:
        """Make a move and return what it led to.

        Raises:
            ToolError: it means none, or the episode is over.
        """
        if self.is_ended or self.is_cut:
            raise ToolError("it is over: no action makes a difference any more")
        try:
            self._env.action(action)
        except ValueError as error:
            raise ToolError(str(error)) from error
        seen, reward, self.is_ended, self.is_cut, _ = self._env.step(action)
        self.moves.append(action)
        self.rewards.append(reward)
        return str(seen)

    def solution(self, quality: float, rng: random.Random) -> Iterator[str]:
        """Yield the solver's moves, each to be made; below quality 1 each is any move with probability 1 - quality."""
        make, words = solver_of(self._env), self._env.words or {}
        if make is None:
            raise EnvError(f"nobody here knows how to solve {self.game.id}")
        solver, word_of, last = make(), {value: word for word, value in words.items()}, None
        while True:
            if (wanted := solver.choose(last)) not in word_of:
                raise EnvError(f"to solve {self.game.id} takes action {wanted}, for which `actions` has no word")
            word = word_of[wanted] if rng.random() < quality else rng.choice(list(words))
            last = words[word]
            yield word

    def close(self) -> None:
        """Close the environment."""
        self._env.close()

    def _make(self, seed: int) -> TextAction:
        env = self.game.make(seed)
        return TextAction(env, words_of(env, self._actions))
