"""Checks that an environment is fit to train on; what is wrong with it comes back as text, never as an exception.

It knows the environment contract only: neither models nor rollouts.
"""

from __future__ import annotations

import json
import random
import re
import warnings
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import gymnasium
from gymnasium.utils.env_checker import check_env as gymnasium_check_env

from agentgrpo.core import UnicodeText
from agentgrpo.errors import AgentGRPOError
from agentgrpo.registry import EnvSource
from agentgrpo.seeds import derive_seed
from agentgrpo.tasks import load_tasks
from agentgrpo.tooling import describe, one_line
from agentgrpo.types import JsonObject, Message, Task

MAX_STEPS = 200  # of a scripted episode, before it counts as one that never ends
_COLOUR = re.compile(r"\x1b\[\d*m")
NOTHING = json.dumps({"content": "", "tool_calls": []})

Env: TypeAlias = gymnasium.Env[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """What a check found. `passed` is None when it does not apply; `detail` says why, or what to do."""

    name: str
    passed: bool | None
    detail: str


class Problem(Exception):
    """A check failed; the message says how."""


class NotApplicable(Exception):
    """A check has nothing to look at; the message says why."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is checked, and with which tasks."""

    source: EnvSource
    tasks: tuple[Task, ...]
    seed: int

    def start(self, task: Task | None) -> tuple[Env, str, JsonObject]:
        """Make an environment and reset it to a task."""
        env = self.source.make()
        seed = derive_seed(self.seed, task.id if task else "") % 2**31
        obs, info = env.reset(seed=seed, options={"task": task.row} if task else None)
        return env, obs, info


def check_env(source: EnvSource, tasks: int = 20, seed: int = 0) -> list[CheckResult]:
    """Check an environment and return one result per check, in a fixed order.

    Args:
        source: What `resolve_env` returned.
        tasks: How many training tasks to play.
        seed: Chooses the tasks and seeds the episodes.
    """
    try:
        rows = load_tasks(source.tasks("train"))
    except Exception as error:
        return [CheckResult(name="tasks", passed=False, detail=_reason(error))]
    chosen = random.Random(seed).sample(rows, min(tasks, len(rows)))
    subject = Subject(source, tuple(chosen), seed)
    return [_run(name, check, subject) for name, check in CHECKS.items()]


def _run(name: str, check: Callable[[Subject], str], subject: Subject) -> CheckResult:
    try:
        return CheckResult(name=name, passed=True, detail=check(subject))
    except NotApplicable as error:
        return CheckResult(name=name, passed=None, detail=str(error))
    except Problem as error:
        return CheckResult(name=name, passed=False, detail=str(error))
    except (Exception, SystemExit) as error:
        return CheckResult(name=name, passed=False, detail=_reason(error))


def _reason(error: BaseException) -> str:
    return one_line(str(error), 1000) if isinstance(error, AgentGRPOError) else f"raised {describe(error)}"


def _tasks(subject: Subject) -> str:
    if not subject.tasks:
        raise Problem("no training tasks: return rows from tasks('train'), or pass tasks=")
    return f"{len(subject.tasks)} of {len(subject.source.tasks('train'))} training tasks are used here"


def _gymnasium(subject: Subject) -> str:
    env = subject.source.make()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            gymnasium_check_env(env.unwrapped)
    except (AssertionError, UserWarning) as error:
        raise Problem(one_line(_COLOUR.sub("", str(error)), 1000)) from error
    finally:
        env.close()
    return "gymnasium.utils.env_checker.check_env passes"


def _deterministic(subject: Subject) -> str:
    for task in _some(subject)[:5]:
        first, second = (_transcript(subject, task) for _ in range(2))
        for number, (left, right) in enumerate(zip(first, second, strict=False)):
            if left != right:
                where = "reset" if number == 0 else f"step {number}"
                raise Problem(
                    f"task {_name(task)}: the same seed and actions gave at {where} first {one_line(left, 120)} and "
                    f"then {one_line(right, 120)}; draw only from self.np_random and read no clock"
                )
        if len(first) != len(second):
            raise Problem(f"task {_name(task)}: the same seed and actions gave {len(first)} and {len(second)} steps")
    return "same seed, task and actions: same episode"


def _garbage(subject: Subject) -> str:
    env, _, info = subject.start(_some(subject)[0])
    try:
        actions = list(_nonsense(info.get("tools") or [], random.Random(subject.seed)))
        for action in actions:
            try:
                _, _, terminated, truncated, _ = env.step(action)
            except Exception as error:
                raise Problem(f"step raised {describe(error)} on the action {one_line(action, 120)}") from error
            if terminated or truncated:
                env.close()
                env, _, _ = subject.start(_some(subject)[0])
    finally:
        env.close()
    return f"{len(actions)} nonsensical actions, none raised"


def _snapshot(subject: Subject) -> str:
    task = _some(subject)[0]
    env, _, info = subject.start(task)
    try:
        inner: Any = env.unwrapped
        if not (callable(getattr(inner, "snapshot", None)) and callable(getattr(inner, "restore", None))):
            raise NotApplicable("no snapshot() and restore(): an episode cannot be re-entered in its middle")
        actions = _script(subject, task, info)
        half = len(actions) // 2
        for action in actions[:half]:
            env.step(action)
        saved = inner.snapshot()
        first = [_seen(inner.step(action)) for action in actions[half:]]
        inner.restore(saved)
        second = [_seen(inner.step(action)) for action in actions[half:]]
    finally:
        env.close()
    for number, (left, right) in enumerate(zip(first, second, strict=True), half + 1):
        if left != right:
            raise Problem(
                f"after restore(snapshot()) step {number} gave {one_line(right, 120)} instead of {one_line(left, 120)}"
            )
    return "going back to a snapshot and acting the same gives the same"


def _oracle(subject: Subject) -> str:
    for task in _some(subject):
        env, _, _ = subject.start(task)
        try:
            if not callable(getattr(env.unwrapped, "oracle", None)):
                raise NotApplicable("no oracle(): nothing shows that the tasks can be solved")
            reward = _play(env, task)[1]
        finally:
            env.close()
        if abs(reward - 1.0) > 1e-6:
            raise Problem(f"task {_name(task)}: the oracle earned {reward:g}, not 1")
    return f"the oracle earns 1 on {len(_some(subject))} tasks"


def _nothing(subject: Subject) -> str:
    if subject.source.action_format == "text":
        raise NotApplicable("actions are text: there is no such thing as doing nothing")
    for task in _some(subject):
        env, _, _ = subject.start(task)
        try:
            _, reward, terminated, truncated, _ = env.step(NOTHING)
            if not terminated and not truncated and callable(score := getattr(env.unwrapped, "score", None)):
                reward = sum(score().values())
            earned = float(reward)
        finally:
            env.close()
        if abs(earned) > 1e-6:
            raise Problem(f"task {_name(task)}: an agent that does nothing earns {earned:g}, not 0")
    return f"doing nothing earns 0 on {len(_some(subject))} tasks"


CHECKS: dict[str, Callable[[Subject], str]] = {
    "tasks": _tasks,
    "gymnasium": _gymnasium,
    "determinism": _deterministic,
    "garbage": _garbage,
    "snapshot": _snapshot,
    "oracle": _oracle,
    "nothing": _nothing,
}


def _some(subject: Subject) -> tuple[Task | None, ...]:
    """Return the tasks, or one None for an environment that makes its episodes from the seed alone."""
    return subject.tasks or (None,)


def _name(task: Task | None) -> str:
    return "(none)" if task is None else f"'{task.id}'"


def _transcript(subject: Subject, task: Task | None) -> list[str]:
    """Play the script twice-comparable: everything the environment said, as text."""
    env, obs, info = subject.start(task)
    try:
        seen = [_seen((obs, info))]
        for action in _script(subject, task, info):
            result = env.step(action)
            seen.append(_seen(result))
            if result[2] or result[3]:
                break
    finally:
        env.close()
    return seen


def _script(subject: Subject, task: Task | None, info: JsonObject) -> list[str]:
    """Return actions for an episode: the oracle's, else calls with made-up arguments, else sampled text."""
    env, _, _ = subject.start(task)
    try:
        if callable(getattr(env.unwrapped, "oracle", None)):
            return _play(env, task)[0]
        if subject.source.action_format == "message":
            calls = [_made_up_call(tool, index) for index, tool in enumerate(info.get("tools") or [])]
            return [json.dumps({"content": "", "tool_calls": [call]}) for call in calls] + [NOTHING]
        env.action_space.seed(subject.seed)
        return [env.action_space.sample() for _ in range(5)]
    finally:
        env.close()


def _play(env: Env, task: Task | None) -> tuple[list[str], float]:
    """Let the oracle play an episode; return its actions and the reward."""
    inner: Any = env.unwrapped
    oracle: Generator[JsonObject, tuple[Message, ...], None] = inner.oracle(quality=1.0, rng=random.Random(0))
    actions, total = [], 0.0
    try:
        action = next(oracle)
        for _ in range(MAX_STEPS):
            actions.append(json.dumps(action))
            _, reward, terminated, truncated, info = env.step(actions[-1])
            total += float(reward)
            if terminated or truncated:
                return actions, total
            action = oracle.send(tuple(info.get("messages") or ()))
    except StopIteration:
        raise Problem(f"task {_name(task)}: the oracle stopped after {len(actions)} actions, before the end") from None
    raise Problem(f"task {_name(task)}: the oracle's episode had not ended after {MAX_STEPS} steps")


def _seen(result: Any) -> str:
    """Return what a reset or step gave as comparable text."""
    return json.dumps(result, sort_keys=True, default=repr)


def _made_up_call(tool: JsonObject, index: int) -> JsonObject:
    function = tool["function"]
    properties: JsonObject = function.get("parameters", {}).get("properties", {})
    values = {"integer": 1, "number": 1.5, "boolean": True, "array": [], "object": {}}
    arguments = {name: values.get(schema.get("type"), "a") for name, schema in properties.items()}
    return {"id": f"call_{index}", "name": function["name"], "arguments": arguments}


def _nonsense(tools: Iterable[JsonObject], rng: random.Random) -> Generator[str, None, None]:
    """Yield actions that no environment should trip over."""
    names = [tool["function"]["name"] for tool in tools] or ["press"]
    space = UnicodeText()
    space.seed(rng.randrange(2**31))
    yield from (space.sample() for _ in range(10))
    yield from ("", "{", "[]", "null", '{"tool_calls": 5}', '{"content": 5, "tool_calls": [null, 3, "x"]}')
    yield from ("<tool_call>", "<tool_call>{</tool_call>", "<tool_call>[]</tool_call>", "\x00\u202e\U0001f600")
    yield '{"tool_calls": [' + "[" * 100_000
    for arguments in _bad_arguments(tools):
        calls = [{"id": "call_0", "name": name, "arguments": arguments} for name in [*names, "no_such_tool"]]
        yield json.dumps({"content": "", "tool_calls": calls})


def _bad_arguments(tools: Iterable[JsonObject]) -> Generator[Any, None, None]:
    parameters = sorted({name for tool in tools for name in tool["function"]["parameters"].get("properties", {})})
    yield from ({}, {"no_such_argument": 1}, [], "text", None)
    values: tuple[Any, ...] = (None, -1, 10**30, 1e308, "", "x" * 100_000, "\ud800", "'; --", [[]], {"a": {}}, True)
    yield from (dict.fromkeys(parameters, value) for value in values)
