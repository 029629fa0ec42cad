"""Environments behind an async face: run in the event loop, in a thread, or in a process, each call with a deadline.

It does not know what an episode is. Whatever an environment raises arrives as an EpisodeError (a RunError as it is),
whatever it does to its thread or process stays there.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable
from typing import Any

from gymnasium.envs.registration import EnvSpec

from agentgrpo.activity import Activity
from agentgrpo.core import StepResult
from agentgrpo.errors import EnvError, EnvFailure, EpisodeError
from agentgrpo.registry import EnvSource, Isolation
from agentgrpo.rollout.places import InlinePlace, Place, ProcessPlace, Score, ThreadPlace
from agentgrpo.types import Json, JsonObject

BLOCKING_SECONDS = 1.0  # an inline call that takes longer says so: every other episode waited for it
CLOSE_SECONDS = 10.0  # an episode is over: its environment has less time to close than it had to step

_PLACES: dict[Isolation, Callable[[EnvSpec], Place]] = {
    "inline": InlinePlace,
    "thread": ThreadPlace,
    "process": ProcessPlace,
}


class EnvHosts:
    """Makes the hosts of a rollout and keeps their threads and processes for the next episode.

    Use it within one event loop.

    Args:
        source: Where environments come from; its isolation says where they run.
        concurrency: Threads or processes that are kept while idle.
        seconds: Deadline of each call; at it a process is killed with its group, a thread is abandoned.
        activity: Is told of threads that were abandoned and of environments that would not close.

    Raises:
        EnvError: the environment cannot run in the isolation it declares.
    """

    def __init__(
        self, source: EnvSource, *, concurrency: int, seconds: float, activity: Activity | None = None
    ) -> None:
        if source.isolation == "inline" and source.has_async_tools:
            raise EnvError(
                f"{source.id} has `async def` tools and isolation 'inline', where waiting for them would block the "
                "loop they run on: set metadata = {'isolation': 'thread'}"
            )
        if source.isolation == "process" and _entry(source.spec).startswith(("__main__:", "local:")):
            raise EnvError(f"{source.id} cannot be imported by another process: move its class to a module or file")
        self.source, self.concurrency, self.seconds = source, concurrency, seconds
        self.activity = activity or Activity()
        self._idle: list[Place] = []
        self._used: set[Place] = set()
        self._is_closed = False

    def make(self) -> EnvHost:
        """Return a host with a fresh environment, made at its first call."""
        if self._is_closed:
            raise EnvFailure("the rollout was closed")
        place = self._idle.pop() if self._idle else _PLACES[self.source.isolation](self.source.spec)
        self._used.add(place)
        return EnvHost(place, self)

    def close(self) -> None:
        """End every thread and process, also those of hosts that are still open."""
        self._is_closed = True
        while self._idle:
            self._idle.pop().end()
        while self._used:
            self._used.pop().kill()

    def take_back(self, place: Place) -> None:
        """Keep a place for another host, or end it."""
        self._used.discard(place)
        if self._is_closed or len(self._idle) >= self.concurrency:
            place.end()
        else:
            self._idle.append(place)

    def has_blocked(self, name: str, seconds: float) -> None:
        """Say that a call in the event loop took long."""
        self.activity.trouble(
            "blocking_calls",
            f"{self.source.id}: {name} took {seconds:.1f} s in the event loop, where all episodes wait and nothing can "
            "stop it: set metadata = {'isolation': 'thread'} (or 'process', for code that may hang)",
        )

    def give_up(self, place: Place, call: str) -> None:
        """Kill a place in mid-call; `call` says which, and why it is not waited for."""
        self._used.discard(place)
        place.kill()
        if isinstance(place, ThreadPlace):
            self.activity.trouble(
                "abandoned_threads",
                f"{self.source.id}: {call}. Its thread cannot be stopped and goes on until it returns by itself: give "
                "code that may hang the isolation 'process'",
            )

    @property
    def abandoned(self) -> int:
        """Threads that were still busy when they were given up."""
        return self.activity.troubles["abandoned_threads"]


class EnvHost:
    """The async face of one environment. After a missed deadline or a cancelled call it is of no more use.

    Every method raises EnvFailure when the environment raised or missed its deadline, ToolFailure when a tool did, and
    RunError when the environment said that the run cannot go on.
    """

    def __init__(self, place: Place, hosts: EnvHosts) -> None:
        self._place: Place | None = place
        self._hosts = hosts
        self.lost: str | None = None  # the call it was discarded in, and what became of it
        self.action_format = hosts.source.action_format

    async def reset(self, *, seed: int | None = None, options: JsonObject | None = None) -> tuple[str, JsonObject]:
        """Reset as in Gymnasium."""
        obs, info = await self._call("reset", seed, options)
        return obs, info

    async def step(self, action: str, *, calls: str = "") -> StepResult:
        """Step as in Gymnasium; `calls` names the tools in messages."""
        name = f"step ({calls})" if calls else "step"
        obs, reward, terminated, truncated, info = await self._call("step", action, name=name)
        return obs, reward, terminated, truncated, info

    async def score(self) -> Score | None:
        """Return the weighted reward and its terms if the episode ended now; None when the env cannot tell."""
        scored = await self._call("score")
        return None if scored is None else (scored[0], scored[1])

    async def state(self) -> Json:
        """Return the env's state as JSON data; None when it has none to show."""
        return await self._call("state")

    async def snapshot(self) -> bytes | None:
        """Return the env's snapshot; None when it takes none."""
        data = await self._call("snapshot")
        return None if data is None else base64.b64decode(data)

    async def restore(self, data: bytes) -> None:
        """Go back to a snapshot."""
        await self._call("restore", base64.b64encode(data).decode())

    async def close(self) -> None:
        """Close the environment; one that will not close is given up, and never fails an episode that is over."""
        if self._place is not None:
            try:
                await self._call("leave", name="close", seconds=min(self._hosts.seconds, CLOSE_SECONDS))
            except EpisodeError as error:
                self._hosts.activity.trouble("close_failures", f"{self._hosts.source.id}: {error}")
        place, self._place = self._place, None
        if place is not None:
            self._hosts.take_back(place)

    async def _call(self, method: str, *arguments: Json, name: str = "", seconds: float | None = None) -> Any:
        place, name, seconds = self._place, name or method, seconds or self._hosts.seconds
        if place is None:
            raise EnvFailure(f"the environment was discarded: {self.lost or 'its episode is over'}")
        clock = time.monotonic()
        try:
            async with asyncio.timeout(seconds + place.start_seconds):
                return await place.call(method, arguments)
        except TimeoutError as error:
            self._discard(place, name, "did not return in time")
            raise EnvFailure(f"{name} did not return within {seconds:g} s; {place.fate}") from error
        except asyncio.CancelledError:
            self._discard(place, name, "was cut off")  # by its episode's end or the run's
            raise
        finally:
            if isinstance(place, InlinePlace) and (took := time.monotonic() - clock) > BLOCKING_SECONDS:
                self._hosts.has_blocked(name, took)

    def _discard(self, place: Place, name: str, why: str) -> None:
        self._place, self.lost = None, f"{name} was cut off; {place.fate}"
        self._hosts.give_up(place, f"{name} {why}")


def _entry(spec: EnvSpec) -> str:
    return str(spec.kwargs.get("env_ref") or spec.entry_point)
