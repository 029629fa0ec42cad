"""Checks of how an environment behaves while it is stepped: that it does not block, break, or talk without end.

It does not know rewards.
"""

from __future__ import annotations

import json
import random
import resource
import signal
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from agentgrpo.actions import parse_action
from agentgrpo.baselines import Env, made_up
from agentgrpo.checks.subject import NotApplicable, Problem, Subject, name_of, one_call_of_each
from agentgrpo.core import UnicodeText
from agentgrpo.tooling import describe, one_line
from agentgrpo.types import JsonObject, Task

MOST_IDLE = 0.005  # seconds a step may wait without computing, where every other episode waits with it
MOST_BUSY = 0.25  # seconds it may compute there
MOST_TEXT = 20_000  # characters of one observation: some 5,000 tokens
MOST_STEP = 10.0  # seconds a step may take on nonsense
_PASSES = 3  # the least of so many counts: other programs may hold the core
_REPEATS = 30  # of the same action
_LAST = 15  # of those, in which no step may grow
_GROWTH = 20  # characters a step


def inline(subject: Subject) -> str:
    """Check that an environment which runs in the event loop never waits there."""
    source = subject.source
    if source.isolation != "inline":
        raise NotApplicable(f"steps run in a {source.isolation} of their own, where they may wait")
    if source.has_async_tools:
        raise Problem("`async def` tools cannot run with isolation 'inline': set metadata = {'isolation': 'thread'}")
    slowest = 0.0
    for same in zip(*(_timed(subject) for _ in range(_PASSES)), strict=False):
        idle, busy = min(cost.idle for cost in same), min(cost.busy for cost in same)
        if idle > MOST_IDLE:
            raise Problem(
                f"{same[0].what} waited {idle:.3f} s without computing: in the event loop (isolation 'inline') every "
                "episode waits with it; set metadata = {'isolation': 'thread'}, or make the tool `async def` as well"
            )
        if busy > MOST_BUSY:
            raise Problem(
                f"{same[0].what} computed for {busy:.2f} s in the event loop, where every episode waits with it: set "
                "metadata = {'isolation': 'thread'}"
            )
        slowest = max(slowest, idle + busy)
    return f"no step waits in the event loop; the slowest took {1000 * slowest:.1f} ms"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cost:
    what: str
    idle: float  # seconds waited
    busy: float  # seconds computed


class _Meter:
    """Tells waiting from computing. A thread that had to leave its core to another program did not wait by itself."""

    def __init__(self) -> None:
        self._wall, self._cpu, self._switches = time.perf_counter(), time.thread_time(), _voluntary_switches()

    def read(self, what: str) -> _Cost:
        busy = time.thread_time() - self._cpu
        idle = time.perf_counter() - self._wall - busy
        has_waited = self._switches is None or _voluntary_switches() != self._switches
        return _Cost(what=what, idle=idle if has_waited else 0.0, busy=busy)


def _voluntary_switches() -> int | None:
    """Return how often this thread has waited for something; None where the system does not count it."""
    this_thread = getattr(resource, "RUSAGE_THREAD", None)
    return None if this_thread is None else resource.getrusage(this_thread).ru_nvcsw


def _timed(subject: Subject) -> list[_Cost]:
    """Play an episode and call every tool once; return what each step cost."""
    task = subject.some()[0]
    measured = []
    for wanted in (subject.script(task), None):
        meter = _Meter()
        env, _, info = subject.start(task)
        measured.append(meter.read("reset"))
        try:
            for action in one_call_of_each(info) if wanted is None else wanted:
                meter = _Meter()
                _, _, terminated, truncated, _ = env.step(action)
                measured.append(meter.read(_what(action)))
                if terminated or truncated:
                    break
        finally:
            env.close()
    return measured


def _what(action: str) -> str:
    """Return what to call an action in a message."""
    message = parse_action(action)
    names = ", ".join(call.name or "?" for call in message.calls)
    return f"a call of {one_line(names, 80)}" if names else f"the message '{one_line(message.content, 60)}'"


def garbage(subject: Subject) -> str:
    """Check that nothing a model could write makes a step raise, or go on for ever."""
    task = subject.some()[0]
    env, _, info = subject.start(task)
    # A process of its own is for code that may hang: there it can be killed, here it cannot.
    may_hang = subject.source.isolation == "process"
    try:
        actions = list(nonsense(info.get("tools") or [], random.Random(subject.seed), has_huge_numbers=not may_hang))
        for action in actions:
            _, _, terminated, truncated, _ = _survive(env, action)
            if terminated or truncated:
                env.close()
                env, _, _ = subject.start(task)
    finally:
        env.close()
    return f"{len(actions)} nonsensical actions, none raised" + (" (huge numbers left out)" if may_hang else "")


def _survive(env: Env, action: str) -> tuple[Any, Any, bool, bool, JsonObject]:
    """Take a step that may go wrong."""
    what, is_late = f"the action {one_line(action, 120)}", threading.Event()
    late = Problem(
        f"step had not returned after {MOST_STEP:g} s on {what}: bound what a tool does, or declare isolation "
        "'process', where it can be killed"
    )
    try:
        with _alarm(MOST_STEP, is_late):
            result = env.step(action)
    except Exception as error:
        if is_late.is_set():
            raise late from error
        raise Problem(
            f"step raised {describe(error)} on {what}; what a model wrote must come back as an error it reads: raise "
            "ag.ToolError in tools"
        ) from error
    if is_late.is_set():  # whatever was raised in it was caught in it
        raise late
    return result


class _Late(Exception):
    """The alarm rang."""


@contextmanager
def _alarm(seconds: float, has_rung: threading.Event) -> Iterator[None]:
    """Raise in the main thread after a while, and note it; in other threads there are no alarms."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*_: object) -> None:
        has_rung.set()
        raise _Late

    handler, clock = signal.signal(signal.SIGALRM, ring), time.monotonic()
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:  # there may be one alarm only: another's goes on where it was
        left = max(left - (time.monotonic() - clock), 1e-3) if left else 0.0
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, left, interval)


def observations(subject: Subject) -> str:
    """Check that what the agent is shown is plain data and stays small, however often it acts."""
    most = 0
    for task in subject.some(3):
        env, obs, info = subject.start(task)
        try:
            most = max(most, _size(obs, info, task, "reset"))
            for number, action in enumerate(subject.script(task), 1):
                obs, _, terminated, truncated, info = env.step(action)
                most = max(most, _size(obs, info, task, f"step {number}"))
                if terminated or truncated:
                    break
        finally:
            env.close()
    env, _, info = subject.start(subject.some()[0])
    env.close()
    for action in one_call_of_each(info) or list(subject.script(subject.some()[0])[:1]):
        _check_growth(subject, action)
    return f"at most {most:,} characters at once, and no growth when the same is done again and again"


def _size(obs: str, info: JsonObject, task: Task | None, when: str) -> int:
    """Return the characters that an agent is shown."""
    where = f"task {name_of(task)}: {when}"
    for key in ("messages", "tools", "reward_terms", "state_diff"):
        try:
            json.dumps(info.get(key))
        except (TypeError, ValueError) as error:
            raise Problem(f"{where} gave info['{key}'] that is no plain JSON data: {error}") from error
    size = _shown(obs, info)
    if size > MOST_TEXT:
        raise Problem(
            f"{where} showed {size:,} characters at once, at most {MOST_TEXT:,}: show a part and let a tool show the "
            "rest, or set @tool(max_output=...)"
        )
    return size


def _shown(obs: str, info: JsonObject) -> int:
    messages = info.get("messages")
    return len(obs) if not messages else sum(len(str(message.get("content") or "")) for message in messages)


def _check_growth(subject: Subject, action: str) -> None:
    env, _, _ = subject.start(subject.some()[0])
    sizes = []
    try:
        for _ in range(_REPEATS):
            obs, _, terminated, truncated, info = env.step(action)
            sizes.append(_shown(obs, info))
            if terminated or truncated:
                break
    finally:
        env.close()
    steps = [after - before for before, after in pairwise(sizes[-_LAST:])]
    if len(sizes) == _REPEATS and min(steps) > 0 and sum(steps) / len(steps) >= _GROWTH:
        raise Problem(
            f"{_what(action)}, repeated, was answered with {sizes[0]} characters at first and {sizes[-1]} at the "
            f"{_REPEATS}th time: say only what is new, the conversation already holds the rest"
        )


def nonsense(
    tools: Iterable[JsonObject], rng: random.Random, *, has_huge_numbers: bool = True
) -> Generator[str, None, None]:
    """Yield actions that no environment should trip over."""
    odd = [value for value in _ODD if has_huge_numbers or value not in _HUGE]
    offered = [tool["function"] for tool in tools]
    space = UnicodeText()
    space.seed(rng.randrange(2**31))
    yield from (space.sample() for _ in range(10))
    yield from ("", "{", "[]", "null", '{"tool_calls": 5}', '{"content": 5, "tool_calls": [null, 3, "x"]}')
    yield from ("<tool_call>", "<tool_call>{</tool_call>", "<tool_call>[]</tool_call>", "\x00\u202e\U0001f600")
    yield '{"tool_calls": [' + "[" * 100_000
    yield _calls(["no_such_tool", *(function["name"] for function in offered)], {"no_such_argument": 1})
    for function in offered:
        for arguments in _bad_arguments(function.get("parameters", {}).get("properties", {}), odd):
            yield _calls([function["name"]], arguments)


def _calls(names: Iterable[str], arguments: Any) -> str:
    calls = [{"id": "call_0", "name": name, "arguments": arguments} for name in names]
    return json.dumps({"content": "", "tool_calls": calls})


def _bad_arguments(properties: JsonObject, odd: Iterable[Any]) -> Generator[Any, None, None]:
    """Yield arguments of one tool: of no use at all, all the same odd value, and one that is odd among good ones."""
    yield from ({}, [], "text", None)
    good = {name: made_up(schema) for name, schema in properties.items()}
    for value in odd if properties else ():
        yield dict.fromkeys(properties, value)
        yield from ({**good, name: value} for name in properties if len(properties) > 1)


_HUGE = (10**30, 1e308, "1e999")
_ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, *_HUGE, 0.5, "", " ", "nobody", "-1", "../../etc/passwd", "'; --", "%s{0}"),
    *("x" * 100_000, "\ud800", "\x00", "\u202e\U0001f600", [], [[]], ["nobody"], {}, {"a": {}}),
)
