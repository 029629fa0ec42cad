"""Forks asked for from the page: each is work of its own, which the page asks about until it is done.

How an episode is forked is given by whoever starts the server: this module knows neither engines nor environments.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Protocol

from agentgrpo.errors import AgentGRPOError, UserError, first_line
from agentgrpo.types import JsonObject

MOST_EPISODES = 64  # of one request
MOST_WAITING = 8

_log = logging.getLogger(__name__)


class Fork(Protocol):
    """Continues a recorded episode from a turn on, in new episodes that are stored in the run."""

    def __call__(
        self, run: Path, episode: str, *, turn: int, count: int, policy: str | None = None, action: str | None = None
    ) -> Any:
        """Make `count` new episodes that part from it at a turn (from 1 on), where an action may be given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForkRequest:
    """What a page asks for, checked."""

    episode: str
    turn: int
    count: int = 1
    policy: str | None = None
    action: str | None = None

    @classmethod
    def of(cls, episode: str, body: Any) -> ForkRequest:
        """Check the body of a request.

        Raises:
            UserError: it says what was got and expected.
        """
        if not isinstance(body, dict) or (unknown := body.keys() - {"turn", "count", "policy", "action"}):
            got = sorted(unknown) if isinstance(body, dict) else type(body).__name__
            raise UserError(f"a fork is asked for with turn, count, policy or action; got {got}")
        turn, number = body.get("turn"), body.get("count", 1)
        if not isinstance(turn, int) or isinstance(turn, bool) or turn < 1:
            raise UserError(f"turn is {turn!r}: expected the first turn to play anew, 1 or more")
        if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= MOST_EPISODES:
            raise UserError(f"count is {number!r}: expected 1 to {MOST_EPISODES} new episodes")
        texts = {name: body.get(name) or None for name in ("policy", "action")}
        if not all(text is None or isinstance(text, str) for text in texts.values()):
            raise UserError("policy and action are text, or left out")
        return cls(episode=episode, turn=turn, count=number, **texts)


@dataclass(slots=True, kw_only=True)
class Job:
    """One fork under way. `state` is waiting, running, done or failed."""

    number: int
    state: str = "waiting"
    message: str = ""

    def data(self) -> JsonObject:
        """Return what the page is told."""
        return {"job": self.number, "state": self.state, "message": self.message}


@dataclass(slots=True, kw_only=True)
class Forking:
    """Carries out forks one after the other, in a thread of its own."""

    fork: Fork | None
    jobs: dict[int, Job] = field(default_factory=dict)
    _numbers: count[int] = field(default_factory=lambda: count(1))
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "agentgrpo-fork"))

    def start(self, run: Path, request: ForkRequest) -> Job:
        """Begin a fork, or queue it.

        Raises:
            UserError: it cannot be begun.
        """
        if self.fork is None:
            raise UserError("this server was started without a way to fork episodes: `agentgrpo view` has one")
        if sum(job.state in ("waiting", "running") for job in self.jobs.values()) >= MOST_WAITING:
            raise UserError(f"{MOST_WAITING} forks are waiting already: wait until one is done")
        job = Job(number=next(self._numbers))
        self.jobs[job.number] = job
        self._thread.submit(self._work, self.fork, job, run, request)
        return job

    def close(self) -> None:
        """Drop what waits; what runs is left to end by itself."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _work(self, fork: Fork, job: Job, run: Path, request: ForkRequest) -> None:
        job.state = "running"
        more = {name: value for name in ("policy", "action") if (value := getattr(request, name)) is not None}
        try:
            result = fork(run, request.episode, turn=request.turn, count=request.count, **more)
            if inspect.iscoroutine(result):
                asyncio.run(result)
        except AgentGRPOError as error:
            job.state, job.message = "failed", str(error)
        except Exception as error:  # a bug or a broken environment: the page is told, the log has the rest
            _log.exception("a fork of %s broke", request.episode)
            job.state, job.message = "failed", f"{type(error).__name__}: {first_line(error)}"
        else:
            job.state = "done"
