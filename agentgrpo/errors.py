"""Every error agentgrpo raises.

AgentGRPOError
├── UserError            your config, environment or data: exit 2, one message with the fix, no traceback
│   ├── ConfigError      a key that is unknown, invalid, or would have no effect
│   ├── EnvError         an environment or tool that is not well defined
│   ├── TaskError        a task file or row that cannot be used
│   └── ModelError       a model folder, tokenizer or chat template that cannot be used
├── EpisodeError         one episode broke at a boundary: recorded on its trajectory, never ends the run
│   ├── ToolFailure      a tool's backend is down or hung (not: the tool said no)
│   ├── EnvFailure       the environment raised outside a tool
│   ├── EngineFailure    generation failed
│   ├── ParseFailure     messages and tokens could not be converted
│   ├── RewardFailure    the reward named in the config could not be had
│   └── JudgeFailure     the judge gave no verdict
└── RunError             the run cannot go on: checkpoint, exit 1

ToolError and its ToolTimeout stand apart: a tool raises them to tell the *model* something; the episode goes on.
Messages say what was got, what was expected, and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar

from agentgrpo.types import Boundary


class AgentGRPOError(Exception):
    """Base of all errors raised on purpose."""


class UserError(AgentGRPOError, ValueError):
    """Something the user can fix."""


class ConfigError(UserError):
    """A configuration key is unknown, invalid, or would have no effect."""


class EnvError(UserError):
    """An environment or tool definition is not usable."""


class TaskError(UserError):
    """A task file or row is not usable."""


class ModelError(UserError):
    """A model folder, tokenizer or chat template is not usable."""


class EpisodeError(AgentGRPOError):
    """One episode broke; recorded on the trajectory."""

    boundary: ClassVar[Boundary]


class ToolFailure(EpisodeError):
    """A tool's backend is down or hung. Raise it in a tool to end the episode as failed, not scored."""

    boundary = Boundary.TOOL


class EnvFailure(EpisodeError):
    """The environment raised outside a tool."""

    boundary = Boundary.ENV


class EngineFailure(EpisodeError):
    """The engine could not generate."""

    boundary = Boundary.ENGINE


class ParseFailure(EpisodeError):
    """Messages could not be turned into tokens, or back."""

    boundary = Boundary.PARSE


class RewardFailure(EpisodeError):
    """The reward named in the config raised, hung or gave no number: the episode has no score."""

    boundary = Boundary.REWARD


class JudgeFailure(EpisodeError):
    """The judge gave no verdict: the episode has no score. `kind` is what failures are counted by."""

    boundary = Boundary.JUDGE

    def __init__(self, kind: str, told: str) -> None:
        super().__init__(told)
        self.kind = kind


class RunError(AgentGRPOError, RuntimeError):
    """The run cannot go on."""


class ToolError(Exception):
    """Raised by a tool to tell the model why it did nothing; the episode goes on."""

    kind: ClassVar[str] = "tool_error"  # what the model is told its type is


class ToolTimeout(ToolError):
    """Raised by a tool that gave up waiting for something slow but alive; what is dead or hung is a ToolFailure."""

    kind = "timeout"


def first_line(error: BaseException) -> str:
    """Return the first line of what a library's error says, or its type when it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def nearest(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the known name nearest to `name`, or an empty string."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean '{matches[0]}'?" if matches else ""
