"""What a person points an env command at: an environment, or the config of a run with its tasks and arguments.

It does not know what the command does with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from agentgrpo.config.run import Config, load_config
from agentgrpo.errors import TaskError, UserError, nearest
from agentgrpo.registry import EnvSource, resolve_env
from agentgrpo.tasks import load_tasks
from agentgrpo.types import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """An environment and its tasks."""

    name: str
    source: EnvSource
    config: Config  # the defaults where none was given
    train: tuple[Task, ...]
    heldout: tuple[Task, ...] | None  # what a config holds out; None: the splits are the environment's own

    def splits(self) -> dict[str, tuple[Task, ...]]:
        """Return the tasks by split, those that are empty left out."""
        if self.heldout is not None:
            found = {"train": self.train, "heldout": self.heldout}
        else:
            names = [name for name in getattr(self.source.env_class, "splits", ()) if name != "train"]
            found = {"train": self.train} | {n: load_tasks(self.source.tasks(n), split=n) for n in names}
        return {name: tasks for name, tasks in found.items() if tasks}

    def split(self, name: str) -> tuple[Task, ...]:
        """Return the tasks of one split.

        Raises:
            TaskError: there is no such split, or it is empty.
        """
        there = self.splits()
        if name not in there:
            known = ", ".join(there) or "none: give --tasks FILE, or a config that names some"
            raise TaskError(f"{self.name} has no tasks in a split '{name}'.{nearest(name, there)} It has {known}")
        return there[name]


def open_target(name: str, tasks: Path | None = None, overrides: Sequence[str] = ()) -> Target:
    """Find an environment by its name, or by a TOML file whose environment, arguments and tasks are taken.

    Args:
        name: What names an environment, or the path of a config.
        tasks: A file of rows, for an environment that ships none.
        overrides: "section.key=value" strings: of the config, or of one that names the environment only.

    Raises:
        UserError: it cannot be found, or both a config and tasks are given.
    """
    if not name.endswith(".toml"):
        config = load_config({"env": name}, overrides=overrides)
        given = {} if tasks is None else {"tasks": str(tasks)}
        weights = {"reward_weights": config.reward_weights} if config.reward_weights else {}
        source = resolve_env(config.env, **(config.env_args | weights | given))
        return Target(name=name, source=source, config=config, train=load_tasks(source.tasks("train")), heldout=None)
    if tasks is not None:
        raise UserError(f"--tasks has no place beside {name}, which names its tasks: leave it out")
    workbench = import_module("agentgrpo.run.workbench")  # brings torch: a plain environment does without
    config = load_config(name, overrides=overrides)
    source = workbench.open_env(config, None)
    train, heldout = workbench.open_tasks(config, source, None, None)
    return Target(name=name, source=source, config=config, train=train, heldout=heldout)
