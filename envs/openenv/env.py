"""An environment that lives behind an OpenEnv server, one session for each episode.

It does not know what the environment is about: the server says which actions or tools there are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from agentgrpo.core import StepResult, ToolEnv
from agentgrpo.envs.openenv.episode import Episode
from agentgrpo.envs.openenv.session import CLOSE_SECONDS, Session
from agentgrpo.envs.openenv.wire import text_of
from agentgrpo.errors import EnvError, EnvFailure
from agentgrpo.tasks import require_split
from agentgrpo.tooling import Tool, wait_on_tool_loop
from agentgrpo.types import JsonObject, Message

SEEDS = {"train": range(1000), "heldout": range(1000, 1200)}
_GRACE = 10.0  # seconds beyond the session's own deadlines

T = TypeVar("T")


class OpenEnv(ToolEnv):
    """An environment of an OpenEnv server.

    Where its actions are calls of tools, those are the tools; else one tool, `act`, takes the fields of an action.
    OpenEnv says only `done`: an episode is never truncated from there.

    Args:
        url: Of the server.
        seconds: Deadline of each answer.
        instructions: The system message; for servers whose first observation does not say what is to be done.
        tasks: Rows, each what the environment is reset with; None: seeds.
        reward_weights: Weight of each reward term.
        tools: Names of the tools to offer; None means all.
        render_mode: "ansi" or None, as in Gymnasium.
    """

    metadata: ClassVar[dict[str, Any]] = {"isolation": "thread"}  # type: ignore[misc]  # as in AgentEnv

    def __init__(
        self,
        *,
        url: str = "http://127.0.0.1:8000",
        seconds: float = 30.0,
        instructions: str = "",
        tasks: str | Path | Sequence[JsonObject] | None = None,
        reward_weights: Mapping[str, float] | None = None,
        tools: Sequence[str] | None = None,
        render_mode: str | None = None,
    ) -> None:
        if not url.startswith(("http://", "https://", "ws://", "wss://")) or seconds <= 0:
            raise EnvError(f"got url = {url!r} and seconds = {seconds}; expected http://host:port and more than 0")
        super().__init__(tasks=tasks, reward_weights=reward_weights, tools=tools, render_mode=render_mode)
        self._url, self._seconds, self._instructions = url, seconds, instructions
        self._episode: Episode | None = None

    @classmethod
    def tasks(cls, split: str = "train") -> Sequence[JsonObject]:
        """Return a seed for each row of `train` or `heldout`; what a server makes of them, nobody here knows."""
        require_split(split, SEEDS, "an OpenEnv server")
        return [{"task_id": f"{split}-{seed}", "seed": seed} for seed in SEEDS[split]]

    def reset_task(self, task: JsonObject) -> list[Message]:
        """Open a session and reset its environment with the task's row."""
        self._leave()
        self._episode = Episode(Session(self._url, self._seconds))
        wanted = {name: value for name, value in task.items() if name not in ("task_id", "weight")}
        try:
            observation = self._wait(self._episode.begin(wanted))
        except BaseException:
            self._leave()
            raise
        system = [{"role": "system", "content": self._instructions}] if self._instructions else []
        own: list[Message] = observation.get("messages") or []  # of `agentgrpo env serve`
        return own or [*system, {"role": "user", "content": text_of(observation) or "Begin."}]

    def extra_tools(self) -> list[Tool]:
        """Return the server's tools."""
        return self._playing().tools

    def step(self, action: str) -> StepResult:
        """Step as any tool environment; a server of ours may change the tools in between."""
        before = self._playing().tools
        result = super().step(action)
        if self._playing().tools is not before:
            self._offer(self._playing().tools)
            result[4].update(self._info(result[4]["messages"]))
        return result

    def respond(self, content: str) -> str | None:
        """Tell the server what was said, if it takes messages; without one the episode is over."""
        episode = self._playing()
        said = self._wait(episode.say(content)) if episode.takes_messages else None
        return None if episode.is_over else said

    def is_done(self) -> bool:
        """Return whether the server said `done`."""
        return self._playing().is_over

    def reward(self) -> dict[str, float]:
        """Return the sum of the rewards as `outcome`, or the terms a server of ours named."""
        return self._playing().terms or {"outcome": self._playing().total}

    def close(self) -> None:
        """End the session."""
        self._leave()
        super().close()

    def _playing(self) -> Episode:
        if self._episode is None:
            raise EnvFailure("there is no session: call reset() first")
        return self._episode

    def _wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        try:
            found: T = wait_on_tool_loop(coroutine, 2 * self._seconds + _GRACE)
        except TimeoutError as error:
            raise EnvFailure(f"{self._url} did not answer in time") from error
        return found

    def _leave(self) -> None:
        episode, self._episode = self._episode, None
        if episode is not None:
            with contextlib.suppress(TimeoutError, RuntimeError):  # its event loop may have ended before it
                wait_on_tool_loop(episode.close(), 2 * CLOSE_SECONDS)
