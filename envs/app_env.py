"""Base of environments over a simulated app: what is wanted is a set of changes to its state, and perhaps an answer.

It does not know any app, task or tool.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from agentgrpo.core import ToolEnv
from agentgrpo.errors import EnvError
from agentgrpo.rewards.answers import text_match
from agentgrpo.tools.appstate import AppState, patch
from agentgrpo.types import Json, JsonObject

SIDE_EFFECTS = -0.5
Compare: TypeAlias = Callable[[JsonObject, JsonObject], frozenset[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What a task starts from and what it wants."""

    snapshot: bytes
    start: JsonObject  # state
    changes: frozenset[str]  # the wanted changes, each a JSON Patch operation as text
    answer: Json  # None: any final message will do


def changes_between(start: JsonObject, state: JsonObject) -> frozenset[str]:
    """Return what changed, each a JSON Patch operation as comparable text."""
    return frozenset(json.dumps(operation, sort_keys=True) for operation in patch(start, state))


def make_case(app: AppState, solve: Callable[[], Json], compare: Compare = changes_between) -> Case:
    """Return the case of an app in its start state; `solve` brings it to the wanted state and returns the answer."""
    snapshot, start = app.snapshot(), app.state()
    answer = solve()
    return Case(snapshot=snapshot, start=start, changes=compare(start, app.state()), answer=answer)


class AppEnv(ToolEnv):
    """An environment that holds an app: a subclass gives `app_type`, and writes `case_of`, the tools and the oracle."""

    metadata: ClassVar[dict[str, Any]] = {"isolation": "inline"}  # type: ignore[misc]  # as in AgentEnv
    app_type: ClassVar[type[AppState]]
    app: AppState
    _case: Case | None = None

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        if not hasattr(self, "app_type"):
            raise EnvError(f"{type(self).__name__} has no app_type: name the class of its app")
        self.app = self.app_type()

    def case_of(self, task: JsonObject) -> Case:
        """Return the case of a task; the episodes of a group share it, so that it should be cached."""
        raise EnvError(f"{type(self).__name__} has no case_of(self, task): define it with make_case()")

    @property
    def has_ended(self) -> bool:
        """Whether the agent itself has ended the episode; what a limit cuts off is no success, whatever its state."""
        return self.answer is not None

    @staticmethod
    def compare(start: JsonObject, state: JsonObject) -> frozenset[str]:
        """Return what changed between two states, as far as it counts."""
        return changes_between(start, state)

    @property
    def case(self) -> Case:
        """The case of the task now played."""
        if self._case is None:
            raise EnvError(f"{type(self).__name__} has no task yet: call reset() first")
        return self._case

    def reset_task(self, task: JsonObject) -> str:
        """Set up the task's start state and return its instruction."""
        self._case = self.case_of(task)
        self.app.restore(self._case.snapshot)
        return str(task["instruction"])

    def reward(self) -> dict[str, float]:
        """Return `outcome` and `side_effects`.

        `outcome` is 1 when exactly the wanted changes were made, the answer is right and the agent ended the episode.
        """
        case = self.case
        changes = self.compare(case.start, self.app.state())
        answered = 1.0 if case.answer is None else text_match(self.answer, case.answer)
        return {
            "outcome": float(changes == case.changes and answered and self.has_ended),
            "side_effects": SIDE_EFFECTS if changes - case.changes else 0.0,
        }

    def snapshot(self) -> bytes:
        """Return the episode and the database."""
        return json.dumps(self.dump_episode()).encode() + b"\n" + self.app.snapshot()

    def restore(self, data: bytes) -> None:
        """Go back to a snapshot, of this environment or another one."""
        header, database = data.split(b"\n", 1)
        self.load_episode(json.loads(header))
        self._case = self.case_of(self.task)
        self.app.restore(database)

    def state(self) -> Json:
        """Return the app's tables."""
        return self.app.state()

    def state_hash(self) -> str:
        """Return the hash of the app's content."""
        return self.app.state_hash()

    def state_diff(self) -> list[JsonObject]:
        """Return what changed since the last call, as JSON Patch operations."""
        return self.app.state_diff()

    def close(self) -> None:
        """Free the database."""
        self.app.close()
        super().close()
