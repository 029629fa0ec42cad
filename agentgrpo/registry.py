"""Finding an environment by what a config or a person calls it: a name, a Gymnasium id, a module, a file, a class.

It does not know what an environment does; it makes sure that it can be made again elsewhere, from JSON.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast, get_args

import gymnasium
from gymnasium.envs.registration import EnvSpec

from agentgrpo.errors import AgentGRPOError, EnvError, nearest
from agentgrpo.references import load_module
from agentgrpo.tasks import load_tasks
from agentgrpo.tooling import describe
from agentgrpo.types import JsonObject, Task

Isolation: TypeAlias = Literal["inline", "thread", "process"]
ActionFormat: TypeAlias = Literal["message", "text"]

_GYM_ID = re.compile(r"[^:]*-v\d+|[\w.-]+/[\w.-]+")
_ENTRY_POINT = "agentgrpo.registry:make_env"
_local: dict[str, type[gymnasium.Env[Any, Any]]] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvSource:
    """Where environments come from: the same one, made as often as episodes need it.

    `spec.to_json()` is enough to make it in another process.
    """

    id: str
    spec: EnvSpec
    env_class: type[gymnasium.Env[Any, Any]]
    isolation: Isolation
    action_format: ActionFormat
    has_async_tools: bool

    def make(self) -> gymnasium.Env[Any, Any]:
        """Make an environment, with the wrappers its spec asks for."""
        return gymnasium.make(self.spec, disable_env_checker=True)

    def tasks(self, split: str = "train") -> Sequence[JsonObject]:
        """Return the rows of a split; those given as `tasks=` are the training split."""
        kwargs = self.spec.kwargs
        if split == "train" and kwargs.get("tasks") is not None:
            return [task.row for task in load_tasks(kwargs["tasks"], split=split)]
        shipped = getattr(self.env_class, "tasks", None)
        if shipped is None:
            return ()
        # What chooses among the shipped rows is an argument of both the environment and its tasks().
        shared = kwargs.keys() & inspect.signature(shipped).parameters.keys()
        return cast(Sequence[JsonObject], shipped(split, **{name: kwargs[name] for name in sorted(shared)}))

    def with_tasks(self, tasks: Sequence[Task]) -> EnvSource:
        """Return the environment as one that has these training tasks for its own, where it takes any."""
        given = replace(self, spec=replace(self.spec, kwargs={**self.spec.kwargs, "tasks": [t.row for t in tasks]}))
        try:
            given.make().close()
        except (TypeError, EnvError):  # a class without tasks=, or with arguments that choose among those it ships
            return self
        return given

    @property
    def classes(self) -> tuple[type, ...]:
        """What it is made of: its class, and those of its parts if it has some."""
        classes_of = getattr(self.env_class, "classes_of", None)
        return (self.env_class, *(() if classes_of is None else classes_of(**self.spec.kwargs)))

    def facts(self, row: JsonObject) -> JsonObject:
        """Return what an episode of a task tells of what it is played in, such as the sandbox it has; {} if nothing.

        Raises:
            EnvError: it cannot tell, or not as JSON data.
        """
        if not hasattr(self.env_class, "facts"):
            return {}
        env = self.make()
        try:
            env.reset(seed=0, options={"task": row})
            facts: JsonObject = json.loads(json.dumps(env.get_wrapper_attr("facts")()))
            return facts
        except AgentGRPOError:
            raise
        except Exception as error:
            raise EnvError(f"{self.id}: facts() gave no plain data: {describe(error)}") from error
        finally:
            env.close()

    def id_of(self, row: JsonObject) -> str:
        """Return what the environment of a task is called: a mixture has several."""
        part_of = getattr(self.env_class, "part_of", None)
        return self.id if part_of is None else str(part_of(row))

    @property
    def reward_weights(self) -> dict[str, float]:
        """The weights given to the environment's reward terms."""
        return dict(self.spec.kwargs.get("reward_weights") or {})


def resolve_env(env: str | type[gymnasium.Env[Any, Any]], **kwargs: Any) -> EnvSource:
    """Find an environment and make it once, to see that it can be.

    Args:
        env: A shipped name ("shop"), a Gymnasium id ("agentgrpo/Shop-v0"), "module:Class", "module:Id-v0",
            "path/to/file.py:Class", or a class.
        **kwargs: Arguments of the environment; plain JSON data and paths.

    Raises:
        EnvError: it cannot be found or made.
    """
    found = _spec_of_class(env) if isinstance(env, type) else _spec_of_name(str(env))
    given = {name: str(value) if isinstance(value, Path) else value for name, value in kwargs.items()}
    spec = replace(found, kwargs=found.kwargs | given)
    try:
        spec.to_json()
    except (TypeError, ValueError) as error:
        raise EnvError(f"the arguments of {spec.id} must be plain JSON data: {error}") from error
    return _probe(spec)


def make_env(*, env_ref: str, **kwargs: Any) -> gymnasium.Env[Any, Any]:
    """Make an environment from "path/to/file.py:Class" (an entry point: a file has no module name to give)."""
    return _class_of(env_ref)(**kwargs)


def _probe(spec: EnvSpec) -> EnvSource:
    try:
        env = gymnasium.make(spec, disable_env_checker=True)
        inner = env.unwrapped
        metadata, tools = dict(inner.metadata), getattr(inner, "tools", None)
        env.close()
    except AgentGRPOError:
        raise
    except (Exception, SystemExit) as error:
        raise EnvError(f"cannot make the environment {spec.id}: {describe(error)}") from error
    return EnvSource(
        id=spec.id,
        spec=spec,
        env_class=type(inner),
        isolation=_checked(spec, metadata, "isolation", get_args(Isolation), "thread"),
        action_format=_checked(spec, metadata, "action_format", get_args(ActionFormat), "text"),
        has_async_tools=isinstance(tools, dict) and any(getattr(t, "is_async", False) for t in tools.values()),
    )


def _checked(spec: EnvSpec, metadata: JsonObject, key: str, allowed: Sequence[str], default: str) -> Any:
    value = metadata.get(key, default)
    if value not in allowed:
        raise EnvError(f"{spec.id}: metadata['{key}'] is {value!r}, expected one of {', '.join(allowed)}")
    return value


def _spec_of_class(env_class: type[gymnasium.Env[Any, Any]]) -> EnvSpec:
    if not issubclass(env_class, gymnasium.Env):
        raise EnvError(f"{env_class.__name__} is no environment: derive it from agentgrpo.ToolEnv or gymnasium.Env")
    name = env_class.__qualname__
    if getattr(sys.modules.get(env_class.__module__), name, None) is env_class:
        return EnvSpec(f"{env_class.__module__}:{name}", entry_point=f"{env_class.__module__}:{name}")
    # Defined inside a function or another class: nothing can import it, this process can look it up.
    _local[name] = env_class
    return EnvSpec(f"local:{env_class.__name__}", entry_point=_ENTRY_POINT, kwargs={"env_ref": f"local:{name}"})


def _spec_of_name(name: str) -> EnvSpec:
    envs = importlib.import_module("agentgrpo.envs")
    shipped = {**envs.SHIPPED, **envs.ADAPTERS}
    name = shipped.get(name, name)
    module, _, attribute = name.rpartition(":")
    if not module and attribute.endswith(".py") and Path(attribute).is_file():
        module, attribute = attribute, ""  # the message lists the classes that are there
    if module.endswith(".py"):
        path = Path(module).resolve()
        _class_of(f"{path}:{attribute}")
        return EnvSpec(f"{path.stem}:{attribute}", entry_point=_ENTRY_POINT, kwargs={"env_ref": f"{path}:{attribute}"})
    if module and not _GYM_ID.fullmatch(attribute):
        return _spec_of_class(_class_of(name))
    if module:
        load_module(module)
    try:
        return _without_callables(gymnasium.spec(attribute))
    except gymnasium.error.Error as error:
        known = [*shipped, *gymnasium.registry]
        raise EnvError(
            f"there is no environment '{name}'.{nearest(name, known)} Expected a shipped one "
            f"({', '.join(shipped)}), a Gymnasium id, module:Class, or path/to/file.py:Class."
        ) from error


def _without_callables(spec: EnvSpec) -> EnvSpec:
    """Return a spec that can be written as JSON although its class was registered as an object."""
    if not isinstance(spec.entry_point, type):
        return spec
    found = _spec_of_class(spec.entry_point)
    return replace(spec, entry_point=found.entry_point, kwargs=spec.kwargs | found.kwargs)


def _class_of(reference: str) -> type[gymnasium.Env[Any, Any]]:
    """Return the class of "module:Class", "path/to/file.py:Class" or "local:Class"."""
    place, _, name = reference.rpartition(":")
    if place == "local":
        if name not in _local:
            raise EnvError(
                f"the environment {name} was defined inside a function of another process: move it to a file"
            )
        return _local[name]
    module = load_module(place)
    found = getattr(module, name, None)
    if not isinstance(found, type) or not issubclass(found, gymnasium.Env):
        classes = [
            n for n, value in vars(module).items() if isinstance(value, type) and issubclass(value, gymnasium.Env)
        ]
        there = ", ".join(classes) or "none"
        if not name:
            raise EnvError(f"which class of {place}? Expected {place}:Class; it has {there}")
        raise EnvError(f"{place} has no environment class '{name}'; it has {there}")
    return found
