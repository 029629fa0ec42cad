"""An environment that lives behind an OpenEnv server, one session for each episode.

It does not know what the environment is about: the server says which actions or tools there are.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from agentgrpo.core import ToolEnv
from agentgrpo.envs.openenv.session import CLOSE_SECONDS, RefusedAction, Session
from agentgrpo.envs.openenv.wire import action_fields, make_tool, result_of, text_of
from agentgrpo.errors import EnvError, EnvFailure, TaskError, ToolError
from agentgrpo.tooling import DeadlineExceeded, Tool, block_on, describe
from agentgrpo.types import Json, JsonObject, Message

SEEDS = {"train": range(1000), "heldout": range(1000, 1200)}
_GRACE = 10.0  # seconds beyond the session's own deadlines


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
        self._session: Session | None = None
        self._schema: JsonObject = {}
        self._listed: list[Tool] = []
        self._total, self._terms, self._over = 0.0, dict[str, float](), False

    @classmethod
    def tasks(cls, split: str = "train") -> Sequence[JsonObject]:
        """Return a seed for each row of `train` or `heldout`; what a server makes of them, nobody here knows."""
        if split not in SEEDS:
            raise TaskError(f"an OpenEnv server has no split '{split}', only {' and '.join(SEEDS)} seeds")
        return [{"task_id": f"{split}-{seed}", "seed": seed} for seed in SEEDS[split]]

    def reset_task(self, task: JsonObject) -> list[Message]:
        """Open a session and reset its environment with the task's row."""
        self._leave()
        self._session = Session(self._url, self._seconds)
        self._total, self._terms, self._over = 0.0, {}, False
        wanted = {name: value for name, value in task.items() if name not in ("task_id", "weight")}
        observation = self._wait(self._begin(self._session, wanted))
        system = [{"role": "system", "content": self._instructions}] if self._instructions else []
        own = observation.get("messages")  # ours: a server of `agentgrpo env serve`
        return own or [*system, {"role": "user", "content": text_of(observation) or "Begin."}]

    def extra_tools(self) -> list[Tool]:
        """Return the server's tools."""
        return self._listed

    def respond(self, content: str) -> str | None:
        """Tell the server what was said, if it takes messages; without one the episode is over."""
        if "content" not in self._schema.get("properties", {}):
            return None
        answer = self._wait(self._step({"type": "message", "content": content}))
        return None if self._over else text_of(answer)

    def is_done(self) -> bool:
        """Return whether the server said `done`."""
        return self._over

    def reward(self) -> dict[str, float]:
        """Return the sum of the rewards as `outcome`, or the terms a server of ours named."""
        return self._terms or {"outcome": self._total}

    def close(self) -> None:
        """End the session."""
        self._leave()
        super().close()

    async def _begin(self, session: Session, wanted: JsonObject) -> JsonObject:
        self._schema = self._schema or await session.schema()
        try:
            observation: JsonObject = (await session.begin(wanted)).get("observation") or {}
        except RefusedAction as error:
            raise EnvFailure(f"{self._url} does not take the task {wanted}: {error}") from error
        self._listed = await self._list_tools()
        return observation

    async def _list_tools(self) -> list[Tool]:
        if "tool_name" not in self._schema.get("properties", {}):
            return [make_tool("act", self._schema.get("description"), action_fields(self._schema), self._act)]
        listed = (await self._step({"type": "list_tools"})).get("tools")
        try:
            return [
                make_tool(row["name"], row.get("description"), dict(row["input_schema"]), partial(self._call, row["name"]))
                for row in listed or ()
            ]
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise EnvFailure(f"{self._url} lists tools that are none: {describe(error)}") from error

    async def _act(self, **fields: Json) -> str:
        return text_of(await self._move(fields))

    async def _call(self, name: str, /, **arguments: Json) -> str:
        observation = await self._move({"type": "call_tool", "tool_name": name, "arguments": arguments})
        if observation.get("tools_changed"):
            self._listed = await self._list_tools()
            self._offer(self._listed)
        return result_of(name, observation)

    async def _move(self, action: JsonObject) -> JsonObject:
        if self._over:
            raise ToolError("it is over: no action makes a difference any more")
        try:
            return await self._step(action)
        except RefusedAction as error:
            raise ToolError(str(error)) from error

    async def _step(self, action: JsonObject) -> JsonObject:
        if self._session is None:
            raise EnvFailure("there is no session: call reset() first")
        answer = await self._session.ask("step", action)
        reward = answer.get("reward")
        if isinstance(reward, int | float):
            self._total += reward
        self._over = self._over or answer.get("done") is True
        observation: JsonObject = answer.get("observation") or {}
        self._terms = observation.get("reward_terms") or {}
        return observation

    def _wait(self, coroutine: Coroutine[Any, Any, JsonObject]) -> JsonObject:
        try:
            found: JsonObject = block_on(coroutine, 2 * self._seconds + _GRACE)
        except DeadlineExceeded as error:
            raise EnvFailure(f"{self._url} did not answer in time") from error
        return found

    def _leave(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            with contextlib.suppress(DeadlineExceeded, RuntimeError):  # its event loop may have ended before it
                block_on(session.close(), 2 * CLOSE_SECONDS)

