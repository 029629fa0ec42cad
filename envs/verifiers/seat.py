"""The seat of an agent in a verifiers environment: what its `run` talks to, with somebody outside giving the replies.

The environment's coroutine runs only while it is waited for here, on an event loop of its own. It does not know models
or tools: a reply is what was said and done in the meantime.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from agentgrpo.errors import EnvFailure
from agentgrpo.tooling import describe

T = TypeVar("T")


class Interaction:
    """A conversation that an environment holds with the agent."""

    def __init__(self, seat: Seat) -> None:
        self._seat, self.trace = seat, seat.trace

    async def turn(self, message: Any = None) -> Any:
        """Say something to the agent, or at first nothing: the task's prompt was said; return its reply."""
        return await self._seat.take_turn(message)


class Agents:
    """The agents of an environment by any name: there is one."""

    def __init__(self, seat: Seat) -> None:
        self._seat = seat

    def __getattr__(self, name: str) -> Seat:
        return self._seat


class Seat:
    """One agent for one task. `run` and `interaction` are what an environment calls, the rest is ours."""

    def __init__(self, loop: asyncio.AbstractEventLoop, trace: Any) -> None:
        self.trainable, self.trace = True, trace
        self._loop = loop
        self._said: list[Any] = []  # by the environment, since the last reply
        self._done: list[Any] = []  # by the agent and its tools, since then
        self._asked = asyncio.Event()
        self._reply: asyncio.Future[None] | None = None
        self._run: asyncio.Task[None] | None = None

    # For the environment

    async def run(self, task: Any) -> Any:
        """Take the task's one reply and return the trace."""
        async with self.interaction(task):
            await self.take_turn(None)
        return self.trace

    @asynccontextmanager
    async def interaction(self, task: Any) -> AsyncIterator[Interaction]:
        """Hold the conversation open, and score it by the task's own rewards at its end."""
        yield Interaction(self)
        await task.score(self.trace)

    async def take_turn(self, message: Any) -> Any:
        """Say something to the agent and wait for its reply."""
        from verifiers.v1 import AssistantMessage, UserMessage
        from verifiers.v1.agent import Segment

        given = [UserMessage(content=message)] if isinstance(message, str) else list(message or ())
        for said in given:
            self.record(said, sampled=False)
        self._said = given
        self._reply = self._loop.create_future()
        self._asked.set()
        await self._reply
        done, self._done = self._done, []
        final = [said for said in done if isinstance(said, AssistantMessage)]
        return Segment(messages=done, root_reply=final[-1].content if final else None)

    # For us

    def start(self, env: Any, task: Any) -> list[Any]:
        """Run an environment on a task until it waits for a reply; return what it says first."""

        async def play() -> None:
            agents = Agents(self)
            await env.setup(agents)
            await env.run(task, agents)

        self._run = self._loop.create_task(play())
        return self._wait() or []

    def reply(self) -> list[Any] | None:
        """Hand over what was recorded; return what the environment says to it, or None if it is over."""
        if self._reply is None or self._reply.done():
            return None
        self._asked.clear()
        self._reply.set_result(None)
        return self._wait()

    def record(self, message: Any, *, sampled: bool) -> None:
        """Add a message to the trace."""
        from verifiers.v1 import MessageNode

        nodes = self.trace.nodes
        nodes.append(MessageNode(parent=len(nodes) - 1 if nodes else None, message=message, sampled=sampled))
        if sampled or message.role == "tool":
            self._done.append(message)

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of the environment's to its end."""
        return self._loop.run_until_complete(coroutine)

    def close(self) -> None:
        """Give up an environment that still waits."""
        if self._run is not None and not self._run.done():
            self._run.cancel()
            self._loop.run_until_complete(asyncio.wait([self._run], timeout=1.0))

    def _wait(self) -> list[Any] | None:
        run = self._run
        assert run is not None

        async def until_it_asks() -> None:
            asked = asyncio.create_task(self._asked.wait())
            await asyncio.wait({run, asked}, return_when=asyncio.FIRST_COMPLETED)
            asked.cancel()

        self.call(until_it_asks())
        if not run.done():
            return self._said
        if (error := run.exception()) is not None:
            raise EnvFailure(f"the environment's run() raised {describe(error)}") from error
        return None
