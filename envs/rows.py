"""The task rows an environment ships: which splits, templates and levels there are, and choosing among them.

It does not know what a template is, only its name and the tools it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, TypeVar

from agentgrpo.core import ToolEnv
from agentgrpo.errors import EnvError, TaskError, nearest
from agentgrpo.tasks import require_split
from agentgrpo.types import JsonObject

T = TypeVar("T")
SPLITS = ("train", "heldout", "heldout_templates")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ShippedRows:
    """The rows of one environment. `make` returns those of a split, each with a "template" and a "level"."""

    env: str
    templates: Mapping[str, frozenset[str]]  # by name: the tools a solution needs
    make: Callable[[str], tuple[JsonObject, ...]]

    def choose(
        self, split: str, *, templates: Sequence[str] | None = None, levels: Sequence[int] | None = None
    ) -> tuple[JsonObject, ...]:
        """Return the rows of a split, optionally of some templates or levels only.

        Raises:
            TaskError: The split or a template is unknown, or no training row is left.
        """
        require_split(split, SPLITS, self.env)
        for name in templates or ():
            self.require_template(name)
        return _chosen(self, split, _key(templates), _key(levels))

    def require_template(self, name: str) -> None:
        """Refuse a template that does not exist.

        Raises:
            TaskError: There is none of this name.
        """
        if name not in self.templates:
            known = ", ".join(self.templates)
            raise TaskError(f"{self.env} has no template '{name}'.{nearest(name, self.templates)} It has: {known}.")

    def require_tools(self, templates: Iterable[str], tools: Iterable[str]) -> None:
        """Refuse to offer too few tools for some templates; what is no template's name is let pass.

        Raises:
            EnvError: A tool is missing.
        """
        for name in sorted(self.templates.keys() & set(templates)):
            missing = sorted(self.templates[name] - set(tools))
            if missing:
                raise EnvError(f"the tasks '{name}' need the tool '{missing[0]}': offer it, or leave these tasks out")


class ShippedEnv(ToolEnv):
    """An environment that ships rows, and lets names of templates and levels choose among them.

    Args:
        tasks: Rows, or a file of rows; None means the shipped training rows.
        reward_weights: Weight of each reward term.
        tools: Names of the tools to offer; None means all.
        templates: Names of the task templates to use, of the shipped tasks; None means all.
        levels: Levels (1 is the easiest) to use, of the shipped tasks; None means all.
        render_mode: "ansi" or None, as in Gymnasium.
    """

    splits = SPLITS
    shipped: ClassVar[ShippedRows]

    def __init__(
        self,
        *,
        tasks: str | Path | Sequence[JsonObject] | None = None,
        reward_weights: Mapping[str, float] | None = None,
        tools: Sequence[str] | None = None,
        templates: Sequence[str] | None = None,
        levels: Sequence[int] | None = None,
        render_mode: str | None = None,
    ) -> None:
        if tasks is not None and (templates is not None or levels is not None):
            raise EnvError("templates and levels choose among the shipped tasks: leave them out, or leave out tasks")
        rows = self.shipped.choose("train", templates=templates, levels=levels) if tasks is None else tasks
        super().__init__(tasks=rows, reward_weights=reward_weights, tools=tools, render_mode=render_mode)
        self.check_tools(tools, templates)

    @classmethod
    def tasks(
        cls, split: str = "train", *, templates: Sequence[str] | None = None, levels: Sequence[int] | None = None
    ) -> Sequence[JsonObject]:
        """Return the rows of `train`, `heldout` or `heldout_templates`, optionally of some templates or levels only.

        A name or level that a split does not have leaves out nothing else: one list of names can serve all splits.
        """
        return cls.shipped.choose(split, templates=templates, levels=levels)

    def check_tools(self, tools: Sequence[str] | None, templates: Sequence[str] | None) -> None:
        """Refuse to offer too few tools for the rows to train on, or for templates chosen for other splits.

        Raises:
            EnvError: A tool is missing.
        """
        if tools is not None and not isinstance(self._own_tasks, str | Path):
            names = {row["template"] for row in self._own_tasks or () if "template" in row}
            self.shipped.require_tools(names | set(templates or ()), tools)


def _key(names: Sequence[T] | None) -> tuple[T, ...] | None:
    return None if names is None else tuple(names)


@lru_cache(maxsize=64)  # environments are made by the thousand
def _chosen(
    shipped: ShippedRows, split: str, templates: tuple[str, ...] | None, levels: tuple[int, ...] | None
) -> tuple[JsonObject, ...]:
    every = shipped.make(split)
    rows = tuple(
        row
        for row in every
        if (templates is None or row["template"] in templates) and (levels is None or row["level"] in levels)
    )
    if not rows and split == "train":
        known = ", ".join(map(str, sorted({row["level"] for row in every})))
        raise TaskError(f"no training row has templates={templates} and levels={levels}. Levels are {known}.")
    return rows
