"""Several environments in one run: each task names the one it is played in.

It passes everything on to that one and knows nothing of what is in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest
from typing import Any, cast

import gymnasium

from agentgrpo.actions import parse_action
from agentgrpo.core import AgentEnv, StepResult
from agentgrpo.errors import EnvError, TaskError
from agentgrpo.registry import EnvSource, Isolation, resolve_env
from agentgrpo.tasks import load_tasks
from agentgrpo.types import JsonObject, Task

_KEYS = {"env", "name", "weight", "args", "tasks", "heldout"}
_STRICTER = ("inline", "thread", "process")
_PASSED_ON = ("snapshot", "restore", "state", "state_hash", "state_diff", "score", "oracle")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One of the environments, and its share of the tasks drawn."""

    name: str
    source: EnvSource
    weight: float
    files: Mapping[str, str]  # by split: rows that replace the shipped ones

    @property
    def isolation(self) -> Isolation:
        """What it needs; tools that are awaited cannot be in the loop they would block."""
        return "thread" if self.source.isolation == "inline" and self.source.has_async_tools else self.source.isolation

    def rows(self, split: str) -> list[JsonObject]:
        """Return its tasks, named and weighed so that the part as a whole weighs what it should."""
        tasks = load_tasks(self.files.get(split) or self.source.tasks(split) or (), split=split)
        total = sum(task.weight for task in tasks)
        return [self._row(task, self.weight * task.weight / total) for task in tasks]

    def _row(self, task: Task, weight: float) -> JsonObject:
        # Rounded, so that the lightest of thousands is no tiny fraction: only ratios count.
        return {**task.row, "task_id": f"{self.name}/{task.id}", "env": self.name, "weight": round(1e6 * weight, 3)}


class Mixture(AgentEnv):
    """Environments side by side.

    Args:
        parts: For each: "env" (as anywhere), and optionally "name" (of its tasks and metrics), "weight" (how often its
            tasks come, 1 by default), "args" (of the environment), "tasks" and "heldout" (files of rows).
        render_mode: "ansi" or None, as in Gymnasium.
    """

    metadata = {"action_format": "message"}  # noqa: RUF012 (as Gymnasium declares it)

    def __init__(self, *, parts: Sequence[JsonObject], render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self._parts = _resolve(json.dumps(parts))
        isolation = max((part.isolation for part in self._parts.values()), key=_STRICTER.index)
        self.metadata = self.metadata | {"isolation": isolation}  # this one's, not the class's
        self._made: dict[str, gymnasium.Env[Any, Any]] = {}
        self._part: Part | None = None

    @classmethod
    def tasks(cls, split: str = "train", *, parts: Sequence[JsonObject] = ()) -> Sequence[JsonObject]:
        """Return the tasks of all environments for a split, in turn: the first few are of each."""
        columns = (part.rows(split) for part in _resolve(json.dumps(parts)).values())
        return [row for rows in zip_longest(*columns) for row in rows if row is not None]

    @staticmethod
    def classes_of(parts: Sequence[JsonObject], **_: Any) -> tuple[type, ...]:
        """Return the classes of the environments."""
        return tuple(each for part in _resolve(json.dumps(parts)).values() for each in part.source.classes)

    @staticmethod
    def part_of(row: JsonObject) -> str:
        """Return the name of the environment that a task is played in."""
        return str(row["env"])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, JsonObject]:
        """Start an episode in the environment that the task names, or in one drawn by the seed."""
        super().reset(seed=seed)
        task = dict((options or {}).get("task") or self._draw())
        name = task.get("env")
        if name not in self._parts:
            raise TaskError(f"task '{task.get('task_id')}' is of the environment {name!r}; there are {self._names}")
        self._part = self._parts[cast(str, name)]
        inner = {**task, "task_id": str(task["task_id"]).removeprefix(f"{name}/")}
        obs, info = self._env.reset(seed=seed, options={"task": inner})
        return obs, info | {"task_id": task["task_id"]}

    def step(self, action: str) -> StepResult:
        """Act in the environment of this episode; one of text gets the bare text."""
        if self._required.source.action_format == "text":
            action = parse_action(action).content
        obs, reward, terminated, truncated, info = self._env.step(action)
        return obs, float(reward), terminated, truncated, info

    def render(self) -> Any:
        """Return what the environment of this episode shows."""
        return self._env.render()

    def close(self) -> None:
        """Close every environment that was made."""
        for env in self._made.values():
            env.close()
        self._made.clear()

    def __getattr__(self, name: str) -> Any:
        """Return an optional capability of the environment of this episode, if it has that."""
        if name in _PASSED_ON and self._part is not None:
            return getattr(self._env.unwrapped, name)
        raise AttributeError(name)

    @property
    def _env(self) -> gymnasium.Env[Any, Any]:
        part = self._required
        if part.name not in self._made:
            self._made[part.name] = part.source.make()
            self._made[part.name].unwrapped.render_mode = self.render_mode
        return self._made[part.name]

    @property
    def _required(self) -> Part:
        if self._part is None:
            raise EnvError("the mixture has no task yet: call reset() first")
        return self._part

    @property
    def _names(self) -> str:
        return ", ".join(self._parts)

    def _draw(self) -> JsonObject:
        part = list(self._parts.values())[int(self.np_random.integers(len(self._parts)))]
        rows = part.rows("train")
        if not rows:
            raise TaskError(f"the part {part.name} ships no training tasks: give it tasks")
        return rows[int(self.np_random.integers(len(rows)))]


@lru_cache(maxsize=8)  # a mixture is made as often as episodes run at once
def _resolve(parts_json: str) -> dict[str, Part]:
    parts = [_part(spec) for spec in json.loads(parts_json)]
    names = [part.name for part in parts]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise EnvError(f"two parts are called '{twice}': give one of them another name")
    if not parts:
        raise EnvError('a mixture needs parts, such as [{ env = "shop" }, { env = "lockbox", weight = 0.5 }]')
    return dict(zip(names, parts, strict=True))


def _part(spec: JsonObject) -> Part:
    unknown = sorted(set(spec) - _KEYS)
    if unknown or "env" not in spec:
        problem = f"unknown key '{unknown[0]}'" if unknown else "no 'env'"
        raise EnvError(f"a part of the mixture has {problem}; it may have {', '.join(sorted(_KEYS))}")
    arguments, weight = spec.get("args", {}), spec.get("weight", 1.0)
    if "reward_weights" in arguments:
        raise EnvError(f"the part {spec['env']} has reward_weights, which a mixture cannot keep apart: remove them")
    if not isinstance(weight, int | float) or not 0 < weight < 1e3:
        raise EnvError(f"the part {spec['env']} has weight {weight!r}; expected a number above 0 and below 1000")
    files = {split: spec[key] for split, key in (("train", "tasks"), ("heldout", "heldout")) if key in spec}
    name = str(spec.get("name") or str(spec["env"]).rpartition(":")[2])
    return Part(name=name, source=resolve_env(spec["env"], **arguments), weight=float(weight), files=files)
