"""The files environment: tasks over a virtual file system, scored by the final state and the answer.

It does not know how the agent works; it only shows it the tools.
"""

from __future__ import annotations

import json
import random
from collections.abc import Generator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from agentgrpo.envs.app_env import AppEnv, Case, make_case
from agentgrpo.envs.attempt import Attempt
from agentgrpo.envs.files.oracle import keep
from agentgrpo.envs.files.tasks import FILES_ROWS
from agentgrpo.envs.files.templates import TEMPLATES, Template
from agentgrpo.envs.files.world import load_world, make_world
from agentgrpo.envs.rows import SPLITS
from agentgrpo.errors import EnvError, TaskError
from agentgrpo.tooling import tool
from agentgrpo.tools.files import FilesApp
from agentgrpo.types import JsonObject, Message


class Files(AppEnv):
    """A shell on a virtual file system: find files, read, count, write, move, copy, delete and protect them.

    Args:
        tasks: Rows, or a file of rows; None means the shipped training rows.
        reward_weights: Weight of each reward term.
        tools: Names of the tools to offer; None means all.
        templates: Names of the task templates to use, of the shipped tasks; None means all.
        levels: Levels (1 to 3) to use, of the shipped tasks; None means all.
        render_mode: "ansi" or None, as in Gymnasium.
    """

    splits = SPLITS
    system_prompt = "You keep files in order. Use the tools, then answer with the value asked for, or done."
    app: FilesApp

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
        rows = FILES_ROWS.choose("train", templates=templates, levels=levels) if tasks is None else tasks
        super().__init__(tasks=rows, reward_weights=reward_weights, tools=tools, render_mode=render_mode)
        self.app = FilesApp()
        if tools is not None and not isinstance(rows, str | Path):
            _check_tools({*(row["template"] for row in rows), *(templates or ())}, tools)

    @classmethod
    def tasks(
        cls, split: str = "train", *, templates: Sequence[str] | None = None, levels: Sequence[int] | None = None
    ) -> Sequence[JsonObject]:
        """Return the rows of `train`, `heldout` or `heldout_templates`, optionally of some templates or levels only.

        A name or level that a split does not have leaves out nothing else: one list of names can serve all splits.
        """
        return FILES_ROWS.choose(split, templates=templates, levels=levels)

    def case_of(self, task: JsonObject) -> Case:
        """Return what a task starts from and what it wants."""
        return _case(_template(task).name, task["seed"], json.dumps(task["goal"], sort_keys=True))

    @tool
    def ls(self, path: str) -> list[str]:
        """List a folder."""
        return self.app.ls(path)

    @tool
    def find(self, path: str, name: str) -> list[str]:
        """Find files below a folder by name; * stands for any text."""
        return self.app.find(path, name)

    @tool
    def grep(self, path: str, text: str) -> list[JsonObject]:
        """Find the lines with a text in a file or below a folder."""
        return self.app.grep(path, text)

    @tool
    def cat(self, path: str) -> list[str]:
        """Show the lines of a file."""
        return self.app.cat(path)

    @tool
    def head(self, path: str, lines: int) -> list[str]:
        """Show the first lines of a file."""
        return self.app.head(path, lines)

    @tool
    def wc(self, path: str) -> JsonObject:
        """Count a file's lines and words."""
        return self.app.wc(path)

    @tool
    def write(self, path: str, text: str) -> JsonObject:
        """Make a file, or replace its text."""
        return self.app.write(path, text)

    @tool
    def append(self, path: str, text: str) -> JsonObject:
        """Add lines to a file."""
        return self.app.append(path, text)

    @tool
    def mkdir(self, path: str) -> JsonObject:
        """Make a folder."""
        return self.app.mkdir(path)

    @tool
    def mv(self, path: str, to: str) -> JsonObject:
        """Move into a folder, or rename."""
        return self.app.mv(path, to)

    @tool
    def cp(self, path: str, to: str) -> JsonObject:
        """Copy."""
        return self.app.cp(path, to)

    @tool
    def rm(self, path: str) -> JsonObject:
        """Delete a file or an empty folder."""
        return self.app.rm(path)

    @tool
    def chmod(self, path: str, mode: str) -> JsonObject:
        """Make a file read-only (ro) or writable (rw)."""
        return self.app.chmod(path, mode)

    def oracle(
        self, *, quality: float = 1.0, rng: random.Random | None = None
    ) -> Generator[JsonObject, tuple[Message, ...], None]:
        """Solve the current task from what the tools answer; below quality 1 with wrong decisions."""
        template = _template(self.task)
        attempt = Attempt(self, self.task["goal"], quality, rng or random.Random(0))
        return keep(attempt, template.selector.name, template.effect.name)


@lru_cache(maxsize=256)
def _case(template_name: str, seed: int, goal_json: str) -> Case:
    """Build a task's case; cached, because the episodes of a group share it."""
    template, goal, world, app = TEMPLATES[template_name], json.loads(goal_json), make_world(seed), FilesApp()
    load_world(app, world)
    case = make_case(app, lambda: template.effect.solve(app, template.target(world, goal), goal))
    app.close()
    return case


def _template(task: JsonObject) -> Template:
    missing = [key for key in ("template", "seed", "goal", "instruction") if key not in task]
    if missing:
        raise TaskError(f"a files task has no '{missing[0]}'. Use rows of Files.tasks(split).")
    FILES_ROWS.require_template(task["template"])
    return TEMPLATES[task["template"]]


def _check_tools(template_names: set[str], tools: Sequence[str]) -> None:
    for name in sorted(template_names & TEMPLATES.keys()):
        missing = sorted(TEMPLATES[name].tools - set(tools))
        if missing:
            raise EnvError(f"the tasks '{name}' need the tool '{missing[0]}': offer it, or leave these tasks out")
