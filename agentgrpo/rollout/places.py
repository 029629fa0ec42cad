"""Places an environment can run in, the event loop, a thread, a child process, all asked in the same way.

It does not know deadlines: whoever asks gives up and says so with `kill`.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import gymnasium
from gymnasium.envs.registration import EnvSpec
from pydantic_core import to_jsonable_python

from agentgrpo.core import weigh
from agentgrpo.errors import AgentGRPOError, EnvFailure, EpisodeError, ToolFailure
from agentgrpo.tooling import TOOL_LOOP, describe
from agentgrpo.types import Json, JsonObject

START_SECONDS = 60.0  # for a child process to import what it needs, besides the deadline
MAX_LINE = 2**28  # bytes of one message of a child process

Score: TypeAlias = tuple[float, dict[str, float]]  # the weighted reward, its terms


class Place(ABC):
    """Where one environment at a time runs."""

    fate: str  # what becomes of it at a deadline, in words
    start_seconds = 0.0

    @abstractmethod
    async def call(self, method: str, arguments: tuple[Json, ...]) -> Any:
        """Call a method of `Seat`."""

    @abstractmethod
    def leave(self) -> None:
        """Close the environment, soon; the next call makes another."""

    @abstractmethod
    def kill(self) -> None:
        """Give up what is running."""

    @abstractmethod
    def end(self) -> None:
        """End this place, which nothing uses."""


class Seat:
    """One environment and the calls it can be asked for: the same in a loop, a thread and a process."""

    def __init__(self, spec: EnvSpec) -> None:
        self.spec = spec
        self.env: gymnasium.Env[Any, Any] | None = None

    def call(self, method: str, arguments: tuple[Json, ...]) -> Any:
        """Call a method; whatever happens, only an EpisodeError is raised."""
        try:
            return getattr(self, method)(*arguments)
        except EpisodeError:
            raise
        except AgentGRPOError as error:
            raise EnvFailure(str(error)) from error
        except (Exception, SystemExit) as error:
            raise EnvFailure(f"{method} raised {describe(error)}") from error

    def reset(self, seed: int | None, options: JsonObject | None) -> tuple[Any, JsonObject]:
        if self.env is None:
            self.env = gymnasium.make(self.spec, disable_env_checker=True)
        obs, info = self.env.reset(seed=seed, options=options)
        return obs, info

    def step(self, action: str) -> tuple[Any, ...]:
        # Read here, where whatever is wrong with it becomes a failure of the environment.
        obs, reward, terminated, truncated, info = self._made().step(action)
        terms = {str(name): float(value) for name, value in (info.get("reward_terms") or {}).items()}
        info = {**info, "reward_terms": terms} if terms else info
        return obs, float(reward), bool(terminated), bool(truncated), info

    def score(self) -> Score | None:
        method = self._capability("score")
        if method is None:
            return None
        terms = dict(method())
        return weigh(terms, self.spec.kwargs.get("reward_weights") or {}), terms

    def snapshot(self) -> str | None:
        method = self._capability("snapshot")
        return None if method is None else base64.b64encode(method()).decode()

    def restore(self, data: str) -> None:
        method = self._capability("restore")
        if method is None:
            raise EnvFailure("the environment has no restore(): it cannot go back to a snapshot")
        method(base64.b64decode(data))

    def leave(self) -> None:
        env, self.env = self.env, None
        if env is not None:
            env.close()

    def _made(self) -> gymnasium.Env[Any, Any]:
        if self.env is None:
            raise EnvFailure("the environment was not reset")
        return self.env

    def _capability(self, name: str) -> Callable[..., Any] | None:
        method = getattr(self._made().unwrapped, name, None)
        return method if callable(method) else None


class InlinePlace(Place):
    """The event loop itself: for environments that never block."""

    fate = "it runs in the event loop, where nothing can stop it"

    def __init__(self, spec: EnvSpec) -> None:
        self._seat = Seat(spec)

    async def call(self, method: str, arguments: tuple[Json, ...]) -> Any:
        return self._seat.call(method, arguments)

    def leave(self) -> None:
        with contextlib.suppress(EpisodeError):  # its episode is over
            self._seat.call("leave", ())

    def kill(self) -> None:
        self.leave()

    def end(self) -> None:
        self.leave()


_Job: TypeAlias = tuple[str, tuple[Json, ...], "asyncio.Future[Any] | None"]


class ThreadPlace(Place):
    """A thread of its own: an environment is made, used and closed by the same one.

    No `concurrent.futures` pool: its threads are joined at exit, so that one hung tool would hang the program.
    """

    fate = "its thread was abandoned"

    def __init__(self, spec: EnvSpec) -> None:
        self._seat = Seat(spec)
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="agentgrpo-env", daemon=True).start()

    async def call(self, method: str, arguments: tuple[Json, ...]) -> Any:
        future = self._loop.create_future()
        self._jobs.put((method, arguments, future))
        return await future

    def leave(self) -> None:
        self._jobs.put(("leave", (), None))

    def kill(self) -> None:
        # When what is running comes back after all, the thread closes the environment and ends.
        self.leave()
        self.end()

    def end(self) -> None:
        self._jobs.put(None)

    def _work(self) -> None:
        TOOL_LOOP.set(self._loop)
        while (job := self._jobs.get()) is not None:
            method, arguments, future = job
            try:
                outcome: Any = self._seat.call(method, arguments)
            except EpisodeError as error:
                outcome = error
            if future is not None:
                with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits any more
                    self._loop.call_soon_threadsafe(_settle, future, outcome)


def _settle(future: asyncio.Future[Any], outcome: Any) -> None:
    if future.done():  # its deadline passed, or it was cancelled
        return
    if isinstance(outcome, EpisodeError):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


class ProcessPlace(Place):
    """A child process in a group of its own, spoken to in lines of JSON: nothing it sends is executed here."""

    fate = "its process was killed"
    start_seconds = START_SECONDS

    def __init__(self, spec: EnvSpec) -> None:
        self._spec = spec
        self._process: subprocess.Popen[bytes] | None = None
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def call(self, method: str, arguments: tuple[Json, ...]) -> Any:
        try:
            reader, writer = self._streams or await self._start()
            writer.write(_line([method, arguments]))
            await writer.drain()
            line = await reader.readline()
        except (OSError, ValueError) as error:
            self.kill()
            raise EnvFailure(f"{method}: lost the environment's process: {describe(error)}") from error
        if not line:
            status = self._exit()
            self.kill()
            raise EnvFailure(f"{method}: the environment's process died ({status})")
        self.start_seconds = 0.0
        answer = json.loads(line)
        if "failure" in answer:
            raise (ToolFailure if answer["boundary"] == "tool" else EnvFailure)(answer["failure"])
        return answer["result"]

    def leave(self) -> None:
        if self._streams is not None:
            self._streams[1].write(_line(["leave", []]))

    def kill(self) -> None:
        process, self._process = self._process, None
        streams, self._streams = self._streams, None
        self.start_seconds = START_SECONDS
        if streams is not None:
            streams[1].transport.abort()
        if process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def end(self) -> None:
        self.kill()

    async def _start(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        ours, theirs = socket.socketpair()
        self._process = _spawn(theirs.fileno())
        theirs.close()
        self._streams = await asyncio.open_unix_connection(sock=ours, limit=MAX_LINE)
        self._streams[1].write(self._spec.to_json().encode() + b"\n")
        return self._streams

    def _exit(self) -> str:
        code = None
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = self._process.wait(1.0)
        return "exit status unknown" if code is None else f"signal {-code}" if code < 0 else f"exit status {code}"


def _spawn(descriptor: int) -> subprocess.Popen[bytes]:
    # Not multiprocessing: it runs the user's script again in the child, and needs a pickle.
    return subprocess.Popen(
        [sys.executable, "-c", f"from agentgrpo.rollout.places import serve; serve({descriptor})"],
        pass_fds=[descriptor],
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=2,  # what an environment prints is no output of the program
        env=os.environ | {"PYTHONPATH": os.pathsep.join(folder or str(Path.cwd()) for folder in sys.path)},
    )


def serve(descriptor: int) -> None:
    """Be the child process: answer calls until the other end is gone, then end the whole process group."""
    connection = socket.socket(fileno=descriptor)
    lines = connection.makefile("rb")
    seat = Seat(EnvSpec.from_json(lines.readline().decode()))
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def listen() -> None:
        for line in lines:
            requests.put(line)
        os.killpg(0, signal.SIGKILL)  # also while a call hangs: nobody is left to kill this process

    threading.Thread(target=listen, daemon=True).start()
    while True:
        method, arguments = json.loads(requests.get())
        answer = _answer(seat, method, arguments)
        if method != "leave":
            connection.sendall(answer)


def _answer(seat: Seat, method: str, arguments: list[Json]) -> bytes:
    try:
        return _line({"result": seat.call(method, tuple(arguments))})
    except EpisodeError as error:
        return _line({"failure": str(error), "boundary": error.boundary.value})
    except (TypeError, ValueError) as error:
        return _line({"failure": f"{method} returned what is no JSON: {describe(error)}", "boundary": "env"})


def _line(value: Json) -> bytes:
    return json.dumps(value, default=_plain).encode() + b"\n"


def _plain(value: Any) -> Json:
    return value.tolist() if hasattr(value, "tolist") else to_jsonable_python(value)
