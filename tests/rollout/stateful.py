"""An environment with a state, in a module that a child process imports fast."""

from __future__ import annotations

from typing import Any

from agentgrpo.core import ToolEnv
from agentgrpo.tooling import tool
from agentgrpo.types import JsonObject


class Notebook(ToolEnv):
    """Keeps what it is told."""

    metadata = {"isolation": "inline"}  # noqa: RUF012

    def reset_task(self, task: JsonObject) -> str:
        self.notes: list[str] = []
        return "Note something."

    @tool
    def echo(self, text: str) -> str:
        """Note a text."""
        self.notes.append(text)
        return "noted"

    def reward(self) -> dict[str, float]:
        return {"outcome": float(bool(self.notes)), "notes": len(self.notes) / 8}

    def state(self) -> Any:
        return {"notes": self.notes}


class ProcessNotebook(Notebook):
    """The same in a process."""

    metadata = {"isolation": "process"}  # noqa: RUF012


class TornNotebook(Notebook):
    """Cannot show its state."""

    def state(self) -> Any:
        raise RuntimeError("no state today")
