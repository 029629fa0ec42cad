"""The files environment: tasks over a virtual file system, scored by the final state and the answer.

It does not know how the agent works; it only shows it the tools.
"""

from __future__ import annotations

import random
from collections.abc import Generator

from agentgrpo.envs.attempt import Attempt, work
from agentgrpo.envs.files.oracle import ACT, SELECT
from agentgrpo.envs.files.tasks import FILES_DRAW, FILES_ROWS
from agentgrpo.envs.files.templates import TEMPLATES
from agentgrpo.envs.template_env import TemplateEnv
from agentgrpo.tooling import tool
from agentgrpo.tools.files import FilesApp
from agentgrpo.types import JsonObject, Message


class Files(TemplateEnv):
    """A shell on a virtual file system: find files, read, count, write, move, copy, delete and protect them."""

    system_prompt = "You keep files in order. Use the tools, then answer with the value asked for, or done."
    draw = FILES_DRAW
    shipped = FILES_ROWS
    app_type = FilesApp
    app: FilesApp

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
        template = TEMPLATES[self.task["template"]]
        attempt = Attempt(self, self.task["goal"], quality, rng or random.Random(0))
        return work(attempt, SELECT[template.selector.name], ACT[template.effect.name])
