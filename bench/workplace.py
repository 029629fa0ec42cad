"""What the rollout benchmark runs: an environment whose tool takes as long as the model asks for, and an engine model.

The scripted model decides everything, so what happened can be replayed by a simulation without overhead.
"""

from __future__ import annotations

import asyncio
import queue
import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from math import exp

from agentgrpo.chat import Chat
from agentgrpo.core import ToolEnv
from agentgrpo.engines.proof import Canary, Proof
from agentgrpo.seeds import derive_seed
from agentgrpo.tooling import tool
from agentgrpo.types import Adapter, Generation, JsonObject, Policy, Sampling

Draw = Callable[[random.Random], float]  # seconds a tool call takes
TASKS = 512


class Workplace(ToolEnv):
    """Works as long as it is told to; asynchronous, as the clients of real tools are."""

    metadata = {"isolation": "thread"}  # noqa: RUF012 (as Gymnasium declares it)
    system_prompt = "Do the work, then say done."

    @classmethod
    def tasks(cls, split: str = "train") -> Sequence[JsonObject]:
        """Return the rows."""
        return [{"task_id": f"{split}-{index}"} for index in range(TASKS)]

    def reset_task(self, task: JsonObject) -> str:
        """Begin."""
        self.done = 0
        return f"Work on {task['task_id']}."

    @tool
    async def work(self, milliseconds: int) -> str:
        """Work for a while.

        Args:
            milliseconds: How long.
        """
        if milliseconds:
            await asyncio.sleep(milliseconds / 1000)
        self.done += 1
        return f"{self.done} pieces of work are done"

    def reward(self) -> dict[str, float]:
        """Return whether any work was done."""
        return {"outcome": float(self.done > 0)}


class Desk(Workplace):
    """The same work, none of it waiting: run in the event loop, as the simulated apps are."""

    metadata = {"isolation": "inline"}  # noqa: RUF012 (as Gymnasium declares it)

    @tool
    def work(self, milliseconds: int) -> str:  # type: ignore[override]
        """Work for a while.

        Args:
            milliseconds: How long; no time at all here.
        """
        self.done += 1
        return f"{self.done} pieces of work are done"


def at_once(rng: random.Random) -> float:
    """No latency."""
    return 0.0


def constant(rng: random.Random) -> float:
    """Return 100 ms."""
    return 0.1


def heavy_tailed(rng: random.Random) -> float:
    """Return a log-normal latency of mean 300 ms: its median is 97 ms, one call in a hundred takes over 3 s."""
    sigma = 1.5
    return round(rng.lognormvariate(0.0, sigma) * 0.3 / exp(sigma * sigma / 2), 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one episode's model says: (tokens, seconds its call takes) per turn; the last turn has no call."""

    turns: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What the engine model takes for a token of each of its sequences: as a mid-sized model does on a GPU."""

    step: float = 0.02
    sequence: float = 0.0001
    stride: int = 4  # tokens per tick: how fine time is

    def seconds(self, running: int) -> float:
        """Return the seconds of one tick with so many sequences."""
        return self.stride * (self.step + self.sequence * running)

    def ticks(self, tokens: int) -> int:
        """Return how many ticks a reply takes."""
        return -(-tokens // self.stride)


class Script:
    """Replies by plan. Their lengths are the engine model's; the text is as short as the call needs."""

    def __init__(self, chat: Chat, draw: Draw, *, turns: int, seed: int = 0) -> None:
        self.chat, self.draw, self.turns, self.seed = chat, draw, turns, seed
        self.plans: dict[str, Plan] = {}  # by session, in the order in which episodes first asked
        self._asked: dict[str, int] = {}
        self._last = tuple(chat.completion({"content": "done", "tool_calls": []}))
        self._call = lru_cache(maxsize=None)(self._render_call)

    def next(self, session: str) -> tuple[int, tuple[int, ...]]:
        """Return how many tokens the session's next reply counts as, and its ids."""
        plan = self.plans.get(session)
        if plan is None:
            plan = self.plans[session] = self._plan(session)
        number = self._asked.get(session, 0)
        self._asked[session] = number + 1
        tokens, seconds = plan.turns[number]
        if number == len(plan.turns) - 1:
            return tokens, self._last
        return tokens, self._call(seconds)

    def _render_call(self, seconds: float) -> tuple[int, ...]:
        call = {"id": "c", "name": "work", "arguments": {"milliseconds": round(seconds * 1000)}}
        return tuple(self.chat.completion({"content": "", "tool_calls": [call]}))

    def _plan(self, session: str) -> Plan:
        rng = random.Random(derive_seed(self.seed, session))
        calls = [(rng.randint(16, 48), self.draw(rng)) for _ in range(self.turns - 1)]
        return Plan(turns=(*calls, (8, 0.0)))


@dataclass(slots=True)
class _Request:
    ticks: int
    ids: tuple[int, ...]
    done: asyncio.Future[Generation]
    loop: asyncio.AbstractEventLoop


@dataclass(slots=True, kw_only=True)
class ModelledEngine:
    """An engine that takes the time of a continuous batch and computes nothing; it sleeps in a thread of its own."""

    script: Script
    cost: Cost
    max_sequences: int = 1024
    context_length: int = 8192
    cpu: float = 0.0  # seconds its thread and its replies took: not the rollout's
    _queue: queue.SimpleQueue[_Request | None] = field(default_factory=queue.SimpleQueue)
    _thread: threading.Thread | None = None

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, policy: Policy, *, session: str = ""
    ) -> Generation:
        """Answer by script when the batch is that far."""
        clock = time.thread_time()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="modelled-engine", daemon=True)
            self._thread.start()
        tokens, ids = self.script.next(session)
        self.cpu += time.thread_time() - clock
        loop = asyncio.get_running_loop()
        request = _Request(self.cost.ticks(tokens), ids, loop.create_future(), loop)
        self._queue.put(request)
        return await request.done

    def _work(self) -> None:
        running: list[_Request] = []
        until = time.perf_counter()
        while True:
            clock, was_idle = time.thread_time(), not running and self._queue.empty()
            if not self._admit(running):
                return
            # Time goes on from the end of the last tick, so that sleeping too long is made up for; waiting to be
            # asked is not: that is what the rollout took.
            now = time.perf_counter()
            until = (now if was_idle else max(until, now - self.cost.step)) + self.cost.seconds(len(running))
            time.sleep(max(0.0, until - time.perf_counter()))
            for request in running:
                request.ticks -= 1
            finished = [request for request in running if not request.ticks]
            running = [request for request in running if request.ticks]
            if finished:
                finished[0].loop.call_soon_threadsafe(_settle, finished)
            self.cpu += time.thread_time() - clock

    def _admit(self, running: list[_Request]) -> bool:
        """Take in what waits, and wait if nothing runs; return whether there is more to do."""
        while not running or not self._queue.empty():
            request = self._queue.get()
            if request is None:
                return False
            running.append(request)
        return True

    async def release(self, session: str) -> None:
        """Nothing is held."""

    async def publish(
        self, adapter: Adapter | None, policy: Policy, *, canary: Canary | None = None
    ) -> tuple[Proof, ...]:
        """Any policy is live."""
        return ()

    async def retire(self, policy: Policy) -> None:
        """Nothing is held."""

    def stand_by(self) -> nullcontext[None]:
        """Hold nothing, so there is nothing to give back."""
        return nullcontext()

    async def close(self) -> None:
        """End the thread."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()


def _settle(requests: Sequence[_Request]) -> None:
    for request in requests:
        if not request.done.done():
            logprobs = (-0.5,) * len(request.ids)
            request.done.set_result(Generation(token_ids=request.ids, logprobs=logprobs, finish_reason="stop"))
