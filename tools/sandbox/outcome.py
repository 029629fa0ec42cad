"""What became of a command, as data and as a model reads it.

It does not know how a command is run.
"""

from __future__ import annotations

import base64
import signal
from dataclasses import dataclass

from agentgrpo.tools.sandbox.client import Answer
from agentgrpo.tools.sandbox.job import MB, Limits
from agentgrpo.tools.sandbox.tiers import Tier

_CPU_USED_UP = 128 + signal.SIGXCPU


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a command.

    `ended` is "exit", "deadline", or the limit it was stopped at: "cpu", "memory", "disk", "processes". `exit_code` is
    128 and a signal's number where a signal ended it, None where the sandbox did. `output` is what it printed to either
    stream, in order.
    """

    output: str
    exit_code: int | None
    ended: str
    left_out: int  # bytes of output
    seconds: float
    tier: Tier

    @property
    def is_success(self) -> bool:
        return self.ended == "exit" and self.exit_code == 0

    def shown(self, limits: Limits) -> str:
        """Return what a model reads: the output, and how it ended unless that was well."""
        note = self._note(limits)
        text = self.output if not note or not self.output or self.output.endswith("\n") else f"{self.output}\n"
        return (text + note) or "(no output)"

    def _note(self, limits: Limits) -> str:
        match self.ended:
            case "exit":
                return self._exit_note()
            case "deadline":
                return f"[stopped: not finished within {limits.seconds:g} s]"
            case "cpu":
                return f"[stopped: it computed for more than {limits.cpu_seconds} s]"
            case "memory":
                return f"[stopped: it used more than {limits.memory // MB} MB of memory]"
            case "disk":
                return f"[stopped: its files take more than {limits.disk // MB} MB; delete some]"
            case _:
                return f"[stopped: it started more than {limits.processes} processes]"

    def _exit_note(self) -> str:
        if not self.exit_code:
            return ""
        name = _SIGNALS.get(self.exit_code - 128)
        return f"[exit code {self.exit_code}{f': {name}' if name else ''}]"


_SIGNALS = {int(item): item.name for item in signal.Signals}


def outcome_of(answer: Answer, tier: Tier) -> Outcome:
    """Return the outcome a supervisor's answer tells of."""
    head, tail = (base64.b64decode(answer[part]) for part in ("head", "tail"))
    left_out, code, ended = answer["left_out"], answer["exit_code"], answer["ended"]
    gap = f"\n[... {left_out} bytes left out ...]\n".encode() if left_out else b""
    return Outcome(
        output=(head + gap + tail).decode("utf-8", "replace"),
        exit_code=code,
        ended="cpu" if ended == "exit" and code == _CPU_USED_UP else ended,
        left_out=left_out,
        seconds=answer["seconds"],
        tier=tier,
    )
