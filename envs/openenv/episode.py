"""One episode on an OpenEnv server: its tools, its moves, what it earned. All of it is awaited.

It does not know chats, nor where it is awaited.
"""

from __future__ import annotations

from functools import partial

from agentgrpo.envs.openenv.session import RefusedAction, Session
from agentgrpo.envs.openenv.wire import action_fields, make_tool, result_of, text_of
from agentgrpo.errors import EnvFailure, ToolError
from agentgrpo.tooling import Tool, describe
from agentgrpo.types import Json, JsonObject


class Episode:
    """An episode and its session; `begin` it first.

    Args:
        session: A session of its own.
    """

    def __init__(self, session: Session) -> None:
        self.tools: list[Tool] = []
        self.total, self.is_over = 0.0, False
        self.terms: dict[str, float] = {}  # named by a server of ours
        self._session, self._schema = session, dict[str, Json]()

    @property
    def takes_messages(self) -> bool:
        """Whether the server wants to know what is said beside calls."""
        return "content" in self._schema.get("properties", {})

    async def begin(self, wanted: JsonObject) -> JsonObject:
        """Open the session, reset its environment and return the first observation."""
        self._schema = await self._session.schema()
        try:
            answer = await self._session.begin(wanted)
        except RefusedAction as error:
            raise EnvFailure(f"{self._session.url} does not take the task {wanted}: {error}") from error
        self.tools = await self._list_tools()
        observation: JsonObject = answer.get("observation") or {}
        return observation

    async def say(self, content: str) -> str:
        """Tell the server what was said and return what it says to it."""
        return text_of(await self._step({"type": "message", "content": content}))

    async def close(self) -> None:
        """End the session."""
        await self._session.close()

    async def _list_tools(self) -> list[Tool]:
        if "tool_name" not in self._schema.get("properties", {}):
            return [make_tool("act", self._schema.get("description"), action_fields(self._schema), self._act)]
        listed = (await self._step({"type": "list_tools"})).get("tools")
        try:
            return [
                make_tool(
                    row["name"], row.get("description"), dict(row["input_schema"]), partial(self._call, row["name"])
                )
                for row in listed or ()
            ]
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise EnvFailure(f"{self._session.url} lists tools that are none: {describe(error)}") from error

    async def _act(self, **fields: Json) -> str:
        return text_of(await self._move(fields))

    async def _call(self, name: str, /, **arguments: Json) -> str:
        observation = await self._move({"type": "call_tool", "tool_name": name, "arguments": arguments})
        if observation.get("tools_changed"):
            self.tools = await self._list_tools()
        return result_of(name, observation)

    async def _move(self, action: JsonObject) -> JsonObject:
        if self.is_over:
            raise ToolError("it is over: no action makes a difference any more")
        try:
            return await self._step(action)
        except RefusedAction as error:
            raise ToolError(str(error)) from error

    async def _step(self, action: JsonObject) -> JsonObject:
        answer = await self._session.ask("step", action)
        reward = answer.get("reward")
        if isinstance(reward, int | float):
            self.total += reward
        self.is_over = self.is_over or answer.get("done") is True
        observation: JsonObject = answer.get("observation") or {}
        self.terms = observation.get("reward_terms") or {}
        return observation
