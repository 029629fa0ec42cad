"""An episode played by hand: an environment that is stepped, what changed by it, and the way back.

It reads nothing and draws nothing.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from agentgrpo.baselines import Env, reset, score
from agentgrpo.errors import AgentGRPOError, EnvError, EnvFailure, UserError
from agentgrpo.jsonpatch import patch
from agentgrpo.registry import EnvSource
from agentgrpo.tooling import describe
from agentgrpo.types import Json, JsonObject, Message, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What came back from a reset or a step."""

    messages: tuple[Message, ...]
    tools: tuple[JsonObject, ...]
    diff: tuple[JsonObject, ...] = ()  # JSON Patch operations
    reward: float = 0.0  # of the episode, were it over now
    terms: dict[str, float] | None = None  # None: the environment tells no terms before the end
    is_over: bool = False
    is_truncated: bool = False


class Hand:
    """One episode and everything done in it so far.

    Args:
        source: The environment.
        task: The task; None lets the environment make one of the seed.
        seed: Seeds the episode.
    """

    def __init__(self, source: EnvSource, task: Task | None, seed: int) -> None:
        self.source, self.task, self.seed = source, task, seed
        self.actions: list[str] = []
        self.heard: list[Heard] = []  # the first is the reset's
        self._saved: list[bytes | None] = []
        self._earned: list[float] = []
        self._env: Env | None = None
        self._state: Json = None

    @property
    def last(self) -> Heard:
        return self.heard[-1]

    @property
    def state(self) -> Json:
        """What the environment says of its state; None when it says nothing."""
        return self._ask("state")

    def begin(self) -> Heard:
        """Start the episode, or start it again.

        Raises:
            EnvError: it cannot begin.
        """
        self.close()
        self._env = self.source.make()
        self.actions, self._saved, self._earned = [], [], []
        try:
            obs, info = reset(self._env, self.task, self.seed)
        except UserError:
            raise
        except Exception as error:
            raise EnvError(f"the episode cannot begin: reset raised {describe(error)}") from error
        self._state = copy.deepcopy(self.state)
        self.heard = [self._note(obs, info, before=(), is_over=False, is_truncated=False)]
        return self.last

    def step(self, action: str) -> Heard:
        """Take a step.

        Args:
            action: As an environment takes it: canonical JSON, or text.

        Raises:
            EpisodeError: the environment broke; only `begin` is of use then.
        """
        saved = self._ask("snapshot") if self._can_restore else None
        try:
            obs, reward, terminated, truncated, info = self._made().step(action)
        except AgentGRPOError:
            raise
        except Exception as error:
            raise EnvFailure(f"step raised {describe(error)}") from error
        self._saved.append(saved)
        self.actions.append(action)
        self._earned.append(float(reward))
        self.heard.append(
            self._note(obs, info, before=self.last.tools, is_over=terminated or truncated, is_truncated=not terminated)
        )
        return self.last

    def undo(self) -> bool:
        """Take the last step back; return whether there was one. Without snapshots the others are played again."""
        if not self.actions:
            return False
        saved = self._saved[-1]
        if saved is None:
            actions = self.actions[:-1]
            self.begin()
            for action in actions:
                self.step(action)
            return True
        inner: Any = self._made().unwrapped
        inner.restore(saved)
        for kept in (self.actions, self._saved, self._earned, self.heard):
            kept.pop()
        self._state = copy.deepcopy(self.state)
        return True

    def close(self) -> None:
        """Close the environment."""
        if self._env is not None:
            self._env.close()
            self._env = None

    @property
    def _can_restore(self) -> bool:
        # A TimeLimit around the environment counts steps that no snapshot knows of.
        return self._has("snapshot") and self._has("restore") and self.source.spec.max_episode_steps is None

    def _note(
        self, obs: str, info: JsonObject, *, before: tuple[JsonObject, ...], is_over: bool, is_truncated: bool
    ) -> Heard:
        shown = [{"role": "user", "content": obs}] if obs else []
        scored = score(self._made())
        terms = info.get("reward_terms") or (scored[1] if scored else None)
        return Heard(
            messages=tuple(info.get("messages") or ([] if "messages" in info else shown)),
            tools=before if info.get("tools") is None else tuple(info["tools"]),
            diff=tuple(self._diff(info)),
            reward=scored[0] if scored and not is_over else sum(self._earned),
            terms=None if terms is None else dict(terms),
            is_over=is_over,
            is_truncated=is_over and is_truncated,
        )

    def _diff(self, info: JsonObject) -> list[JsonObject]:
        before, self._state = self._state, copy.deepcopy(self.state)
        told = info.get("state_diff")
        return list(told) if told is not None else patch(before, self._state)

    def _has(self, capability: str) -> bool:
        return callable(getattr(self._made().unwrapped, capability, None))

    def _ask(self, capability: str) -> Any:
        return getattr(self._made().unwrapped, capability)() if self._has(capability) else None

    def _made(self) -> Env:
        if self._env is None:
            raise RuntimeError("begin() was not called")
        return self._env
