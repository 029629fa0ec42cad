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

from agentgrpo.core import StepResult
from agentgrpo.errors import AgentGRPOError, EnvFailure, EpisodeError, RunError, ToolFailure
from agentgrpo.family import adopt_orphans, die_with_parent, kill_family
from agentgrpo.rollout.contract import Contract, checked_score, plain_state
from agentgrpo.tooling import TOOL_LOOP, describe, one_line
from agentgrpo.types import Json, JsonObject

START_SECONDS = 60.0  # for a child process to import what it needs, besides the deadline
_REAP_SECONDS = 0.2
MAX_LINE = 2**28  # bytes of one message of a child process: a snapshot may be large
_FAILURES: dict[str, type[AgentGRPOError]] = {"tool": ToolFailure, "run": RunError}  # by boundary; else EnvFailure
_FORGED = "it wrote to the connection itself"

Score: TypeAlias = tuple[float, dict[str, float]]  # the weighted reward, its terms


class Place(ABC):
    """Where one environment at a time runs."""

    fate: str  # what becomes of it at a deadline, in words
    start_seconds = 0.0

    @abstractmethod
    async def call(self, method: str, arguments: tuple[Json, ...]) -> Any:
        """Call a method of `Seat`."""

    @abstractmethod
    def kill(self) -> None:
        """Give up what is running."""

    @abstractmethod
    def end(self) -> None:
        """End this place, which nothing uses."""


class Seat:
    """One environment and the calls it can be asked for: the same in a loop, a thread and a process.

    What it gives is checked here, where whatever is wrong with it is a failure of the environment.

    Args:
        spec: Of the environment.
        lets_pass: What is not the environment's failure, although it was raised in it.
    """

    def __init__(self, spec: EnvSpec, *, lets_pass: tuple[type[BaseException], ...] = ()) -> None:
        self.spec, self.lets_pass = spec, lets_pass
        self.env: gymnasium.Env[Any, Any] | None = None
        self._contract = Contract()

    def call(self, method: str, arguments: tuple[Json, ...]) -> Any:
        """Call a method; whatever happens, only an EpisodeError or a RunError is raised, and what is let pass."""
        try:
            return getattr(self, method)(*arguments)
        except (EpisodeError, RunError):
            raise
        except AgentGRPOError as error:
            raise EnvFailure(str(error)) from error
        except BaseException as error:  # also sys.exit(), and what only an event loop or a generator may raise
            if isinstance(error, self.lets_pass):
                raise
            name = "close" if method == "leave" else method
            raise EnvFailure(f"{name} raised {describe(error)}") from error

    def reset(self, seed: int | None, options: JsonObject | None) -> tuple[str, JsonObject]:
        if self.env is None:
            self.env = gymnasium.make(self.spec, disable_env_checker=True)
        return self._contract.reset(self.env.reset(seed=seed, options=options))

    def step(self, action: str) -> StepResult:
        return self._contract.step(self._made().step(action))

    def score(self) -> Score | None:
        method = self._capability("score")
        return None if method is None else checked_score(method(), self.spec.kwargs.get("reward_weights") or {})

    def state(self) -> Json:
        method = self._capability("state")
        return None if method is None else plain_state(method())

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
        # Ctrl-C reaches the main thread wherever it is: here it is a person's, not the environment's.
        self._seat = Seat(spec, lets_pass=(KeyboardInterrupt,))

    async def call(self, method: str, arguments: tuple[Json, ...]) -> Any:
        return self._seat.call(method, arguments)

    def kill(self) -> None:
        with contextlib.suppress(EpisodeError):  # its episode is over
            self._seat.call("leave", ())

    def end(self) -> None:
        self.kill()


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
        self._is_running = False

    async def call(self, method: str, arguments: tuple[Json, ...]) -> Any:
        if not self._is_running:
            if method == "leave":
                return None
            self._start(method)
        future = self._loop.create_future()
        self._jobs.put((method, arguments, future))
        return await future

    def kill(self) -> None:
        # When what is running comes back after all, the thread closes the environment and ends.
        self._jobs.put(("leave", (), None))
        self.end()

    def end(self) -> None:
        self._jobs.put(None)

    def _start(self, method: str) -> None:
        try:
            threading.Thread(target=self._work, name="agentgrpo-env", daemon=True).start()
        except RuntimeError as error:  # this episode is lost, others may end theirs
            raise EnvFailure(
                f"{method}: no thread for the environment: {describe(error)}: lower rollout.concurrency, or raise the "
                "limit on processes (ulimit -u)"
            ) from error
        self._is_running = True

    def _work(self) -> None:
        TOOL_LOOP.set(self._loop)
        while (job := self._jobs.get()) is not None:
            method, arguments, future = job
            try:
                outcome: Any = self._seat.call(method, arguments)
            except (EpisodeError, RunError) as error:
                outcome = error
            if future is not None:
                with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits any more
                    self._loop.call_soon_threadsafe(_settle, future, outcome)


def _settle(future: asyncio.Future[Any], outcome: Any) -> None:
    if future.done():  # its deadline passed, or it was cancelled
        return
    if isinstance(outcome, EpisodeError | RunError):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


class ProcessPlace(Place):
    """A child process in a group of its own, spoken to in lines of JSON: nothing it sends is executed here."""

    fate = "its process was killed"
    start_seconds = START_SECONDS

    def __init__(self, spec: EnvSpec) -> None:
        self._spec = spec
        self._contract = Contract()
        self._process: subprocess.Popen[bytes] | None = None
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def call(self, method: str, arguments: tuple[Json, ...]) -> Any:
        if method == "leave" and self._streams is None:
            return None  # it is dead already
        try:
            reader, writer = self._streams or await self._start()
            writer.write(_line([method, arguments]))
            await writer.drain()
            line = await reader.readline()
            answer = self._read(line, method) if line else None
        except (OSError, ValueError, RecursionError, AgentGRPOError) as error:
            self.kill()
            raise EnvFailure(f"{method}: lost the environment's process: {describe(error)}") from error
        if answer is None:
            status = await self._exit()
            self.kill()
            raise EnvFailure(f"{method}: the environment's process {status}")
        self.start_seconds = 0.0
        if "failure" in answer:
            raise _FAILURES.get(answer["boundary"], EnvFailure)(answer["failure"])
        return answer["result"]

    def _read(self, line: bytes, method: str) -> JsonObject:
        """Return the answer, checked as in the child: what runs there can write to the connection itself."""
        match json.loads(line):
            case {"failure": str(cause), "boundary": str(boundary)}:
                return {"failure": one_line(cause, 1_000), "boundary": boundary}
            case {"result": result}:
                return {"result": self._checked(method, result)}
        raise ValueError(_FORGED)

    def _checked(self, method: str, result: Json) -> Any:
        match method, result:
            case "reset", list():
                return self._contract.reset(tuple(result))
            case "step", list():
                return self._contract.step(tuple(result))
            case "score", [_, terms]:
                return checked_score(terms, self._spec.kwargs.get("reward_weights") or {})
            case "snapshot", str():
                base64.b64decode(result)  # raises a ValueError if it is none
                return result
            case ("state", _) | ("score" | "snapshot" | "restore" | "leave", None):
                return result
        raise ValueError(_FORGED)

    def kill(self) -> None:
        process, self._process = self._process, None
        streams, self._streams = self._streams, None
        self.start_seconds = START_SECONDS
        if streams is not None:
            streams[1].transport.abort()
        if process is not None:
            kill_family(process.pid)
            try:
                process.wait(_REAP_SECONDS)
            except subprocess.TimeoutExpired:  # the kernel is still freeing its memory: the loop does not wait for it
                with contextlib.suppress(RuntimeError):  # no thread: `subprocess` reaps it when it starts the next one
                    threading.Thread(target=process.wait, name="agentgrpo-reap", daemon=True).start()

    def end(self) -> None:
        self.kill()

    async def _start(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = _spawn(theirs.fileno())
                self._streams = await asyncio.open_unix_connection(sock=ours, limit=MAX_LINE)
            except BaseException:
                ours.close()
                raise
        self._streams[1].write(self._spec.to_json().encode() + b"\n")
        return self._streams

    async def _exit(self) -> str:
        """Say what became of the process, whose connection is closed."""
        for _ in range(20):
            code = self._process.poll() if self._process is not None else None
            if code is not None:
                return f"died (signal {-code})" if code < 0 else f"died (exit status {code})"
            await asyncio.sleep(0.05)
        return "closed its connection, and was killed"


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
    die_with_parent()
    adopt_orphans()
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
        try:
            connection.sendall(_answer(seat, method, arguments))
        except OSError as error:
            os.write(2, f"the environment closed the connection to agentgrpo: {error}\n".encode())
            os._exit(1)


def _answer(seat: Seat, method: str, arguments: list[Json]) -> bytes:
    try:
        answer = _line({"result": seat.call(method, tuple(arguments))})
        if len(answer) <= MAX_LINE:
            return answer
        failure, boundary = f"{method} returned {len(answer):,} bytes, at most {MAX_LINE:,}", "env"
    except EpisodeError as error:
        failure, boundary = str(error), error.boundary.value
    except RunError as error:
        failure, boundary = str(error), "run"
    except (TypeError, ValueError, RecursionError) as error:
        failure, boundary = f"{method} returned what is no JSON: {describe(error)}", "env"
    return _line({"failure": failure, "boundary": boundary})


def _line(value: Json) -> bytes:
    return json.dumps(value, default=_plain).encode() + b"\n"


def _plain(value: Any) -> Json:
    return value.tolist() if hasattr(value, "tolist") else to_jsonable_python(value)
