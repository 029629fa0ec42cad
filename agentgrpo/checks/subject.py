"""What is checked, and what the checks share: how they say no, and the episodes they compare.

It does not know which checks there are.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from agentgrpo.baselines import Env, has_oracle, made_up_call, nothing_action, play, reset, start
from agentgrpo.errors import AgentGRPOError
from agentgrpo.registry import EnvSource
from agentgrpo.tasks import load_tasks
from agentgrpo.tooling import describe, one_line
from agentgrpo.types import JsonObject, Task


class Problem(Exception):
    """A check failed; the message says how, and what to do."""


class NotApplicable(Exception):
    """A check has nothing to look at; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is checked, and with which tasks."""

    source: EnvSource
    tasks: tuple[Task, ...]
    train: tuple[Task, ...]  # all of them
    heldout: tuple[Task, ...] | None  # of a config; None: the splits the environment ships
    seed: int
    scripts: dict[str, tuple[str, ...]] = field(default_factory=dict)  # by task, once made

    def start(self, task: Task | None) -> tuple[Env, str, JsonObject]:
        """Make an environment and reset it to a task."""
        return start(self.source, task, self.seed)

    def reset(self, env: Env, task: Task | None) -> tuple[str, JsonObject]:
        """Reset an environment that is there to a task, with the seed of a fresh one."""
        return reset(env, task, self.seed)

    def some(self, most: int | None = None) -> Sequence[Task | None]:
        """Return tasks, or one None for an environment that makes its episodes from the seed alone."""
        return self.tasks[:most] or (None,)

    def script(self, task: Task | None) -> tuple[str, ...]:
        """Return actions for an episode: the oracle's, else calls with made-up arguments, else sampled text."""
        name = task.id if task else ""
        if name not in self.scripts:
            self.scripts[name] = self._script(task)
        return self.scripts[name]

    def _script(self, task: Task | None) -> tuple[str, ...]:
        env, _, info = self.start(task)
        try:
            if has_oracle(env):
                return play(self.source, task, "oracle", seed=self.seed).actions
            if self.source.action_format == "message":
                return (*one_call_of_each(info), nothing_action(self.source))
            env.action_space.seed(self.seed)
            return tuple(env.action_space.sample() for _ in range(5))
        finally:
            env.close()


def subject_of(
    source: EnvSource,
    tasks: int,
    seed: int,
    *,
    train: Sequence[Task] | None = None,
    heldout: Sequence[Task] | None = None,
) -> Subject:
    """Choose so many training tasks to check an environment with, of those it ships where none are given.

    Raises:
        TaskError: its rows cannot be used; whatever its own code raises comes through.
    """
    rows = load_tasks(source.tasks("train")) if train is None else tuple(train)
    chosen = tuple(random.Random(seed).sample(rows, min(tasks, len(rows))))
    return Subject(
        source=source if train is None else source.with_tasks(chosen),
        tasks=chosen,
        train=rows,
        heldout=None if heldout is None else tuple(heldout),
        seed=seed,
    )


def one_call_of_each(info: JsonObject) -> list[str]:
    """Return an action per tool on offer that calls it with made-up arguments."""
    calls = [made_up_call(tool, index) for index, tool in enumerate(info.get("tools") or [])]
    return [json.dumps({"content": "", "tool_calls": [call]}) for call in calls]


def transcript(subject: Subject, task: Task | None) -> list[str]:
    """Play the script in a fresh environment; return everything it said, as text."""
    env, obs, info = subject.start(task)
    try:
        return [seen((obs, info)), *act(env, subject.script(task))]
    finally:
        env.close()


def act(env: Env, actions: Sequence[str]) -> list[str]:
    """Step through actions until they end or the episode does; return everything that was said, as text."""
    said = []
    for action in actions:
        result = env.step(action)
        said.append(seen(result))
        if result[2] or result[3]:
            break
    return said


def seen(result: Any) -> str:
    """Return what a reset or step gave as comparable text."""
    return json.dumps(result, sort_keys=True, default=repr)


def difference(left: Sequence[str], right: Sequence[str]) -> str | None:
    """Return where two transcripts part and how, in words; None when they are the same."""
    for number, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            where = "reset" if number == 0 else f"step {number}"
            return f"{where} gave {around(one, other)} instead of {around(other, one)}"
    if len(left) != len(right):
        return f"the episode had {len(left) - 1} steps instead of {len(right) - 1}"
    return None


def around(text: str, other: str) -> str:
    """Return the part of a text where it differs from another."""
    first = next((i for i, (a, b) in enumerate(zip(text, other, strict=False)) if a != b), 0)
    cut = max(0, first - 50)
    return one_line(("..." if cut else "") + text[cut : cut + 120], 124)


def name_of(task: Task | None) -> str:
    """Return what to call a task in a message."""
    return "(none)" if task is None else f"'{task.id}'"


def reason(error: BaseException) -> str:
    """Return why a check could not be made."""
    return one_line(str(error), 1000) if isinstance(error, AgentGRPOError) else f"raised {describe(error)}"
