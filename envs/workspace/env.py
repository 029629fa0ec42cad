"""The workspace environment: tasks over an office's calendar, mail and contacts, scored by final state and answer.

It does not know how the agent works; it only shows it the tools, and passes on what the user says.
"""

from __future__ import annotations

import json
import random
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from agentgrpo.core import ToolEnv
from agentgrpo.envs.workspace.oracle import Assistant
from agentgrpo.envs.workspace.parts import Template
from agentgrpo.envs.workspace.talk import user_of
from agentgrpo.envs.workspace.tasks import SPLITS, workspace_tasks
from agentgrpo.envs.workspace.templates import TEMPLATES
from agentgrpo.envs.workspace.world import load_world, make_world
from agentgrpo.errors import EnvError, TaskError, ToolError, nearest
from agentgrpo.tooling import Tool, as_tool
from agentgrpo.tools.appstate import patch
from agentgrpo.tools.workspace import FIRST_NEW, WorkspaceApp
from agentgrpo.types import Json, JsonObject, Message
from agentgrpo.users import User

SIDE_EFFECTS = -0.5
CONTACT_TOOLS, CALENDAR_TOOLS, MAIL_TOOLS = (
    WorkspaceApp.contact_tools,
    WorkspaceApp.calendar_tools,
    WorkspaceApp.mail_tools,
)
# What is offered, by which of calendar and mail is open. One that is closed can be opened, which closes the other.
OFFERED: Mapping[str, tuple[str, ...]] = {
    "both": (*CONTACT_TOOLS, *CALENDAR_TOOLS, *MAIL_TOOLS, "answer"),
    "calendar": (*CONTACT_TOOLS, *CALENDAR_TOOLS, "open_mail", "answer"),
    "mail": (*CONTACT_TOOLS, *MAIL_TOOLS, "open_calendar", "answer"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What a task starts from and what it wants."""

    snapshot: bytes
    start: JsonObject  # state
    changes: frozenset[str]  # the wanted changes, each a JSON Patch operation as text
    answer: JsonObject | None  # the wanted fields; None: no question was asked
    user: User | None


class Workspace(ToolEnv):
    """An assistant's desk in an office: look up contacts, book, move and cancel meetings, answer invitations and mail.

    Args:
        tasks: Rows, or a file of rows; None means the shipped training rows.
        reward_weights: Weight of each reward term.
        tools: Names of the tools to offer; None means all.
        templates: Names of the task templates to use, of the shipped tasks; None means all.
        levels: Levels (1 to 3) to use, of the shipped tasks; None means all.
        progress: What an episode without success would earn for all of its goal checks; more than 0 adds the reward
            term `progress`.
        render_mode: "ansi" or None, as in Gymnasium.
    """

    metadata: ClassVar[dict[str, Any]] = {"isolation": "inline"}  # type: ignore[misc]  # as in AgentEnv
    splits = SPLITS
    system_prompt = "You run an office. Use the tools, ask for what I left out; call answer if I asked, else say done."

    def __init__(
        self,
        *,
        tasks: str | Path | Sequence[JsonObject] | None = None,
        reward_weights: Mapping[str, float] | None = None,
        tools: Sequence[str] | None = None,
        templates: Sequence[str] | None = None,
        levels: Sequence[int] | None = None,
        progress: float = 0.0,
        render_mode: str | None = None,
    ) -> None:
        if tasks is not None and (templates is not None or levels is not None):
            raise EnvError("templates and levels choose among the shipped tasks: leave them out, or leave out tasks")
        if not 0.0 <= progress < 1.0:
            raise EnvError(f"progress is {progress}: success earns 1, so expected from 0 to less than 1, such as 0.2")
        rows = workspace_tasks("train", templates=templates, levels=levels) if tasks is None else tasks
        super().__init__(tasks=rows, reward_weights=reward_weights, render_mode=render_mode)
        self._app, self.progress = WorkspaceApp(), progress
        self._all_tools = {tool.name: tool for tool in self._make_tools()}
        self._chosen = _checked(tools, self._all_tools)
        self._case: Case | None = None
        self._opened = "both"  # a key of OFFERED
        self._fields: JsonObject | None = None  # of the answer
        self._talk: list[Message] = []  # between user and agent
        self._show_tools()
        if tools is not None and not isinstance(rows, str | Path):
            _check_tools({*(row["template"] for row in rows), *(templates or ())}, tools)

    @classmethod
    def tasks(
        cls, split: str = "train", *, templates: Sequence[str] | None = None, levels: Sequence[int] | None = None
    ) -> Sequence[JsonObject]:
        """Return the rows of `train`, `heldout` or `heldout_templates`, optionally of some templates or levels only.

        A name or level that a split does not have leaves out nothing else: one list of names can serve all splits.
        """
        return workspace_tasks(split, templates=templates, levels=levels)

    def reset_task(self, task: JsonObject) -> str:
        """Set up the task's world and return its instruction."""
        self._case = _case_of(task)
        self._app.restore(self._case.snapshot)
        self._opened = "mail" if _template(task).manner == "closed" else "both"
        self._fields, self._talk = None, [{"role": "user", "content": str(task["instruction"])}]
        return str(task["instruction"])

    def extra_tools(self) -> list[Tool]:
        """Return the app's functions and what else is offered now."""
        return [
            self._all_tools[name]
            for name in OFFERED[self._opened]
            if name in self._chosen or name in ("open_calendar", "open_mail")
        ]

    def respond(self, content: str) -> str | None:
        """Let the user reply, if there is one to talk to."""
        user = self._require_case().user
        self._talk.append({"role": "assistant", "content": content})
        reply = None if user is None else user.reply(self._talk)
        if reply is not None:
            self._talk.append({"role": "user", "content": reply})
        return reply

    def is_done(self) -> bool:
        """Return whether a question was answered."""
        return self._fields is not None

    def submit(self, day: str = "", hour: int = 0, room: str = "", phone: int = 0, subject: str = "") -> str:
        """Answer the question with what it asks for. This ends the task."""
        if self._fields is not None:
            raise ToolError("the question is answered already")
        given = {"day": day, "hour": hour, "room": room, "phone": phone, "subject": subject}
        if not any(given.values()):
            raise ToolError(f"an answer needs one of {', '.join(given)}")
        self._fields = given
        return "ok"

    def open_calendar(self) -> str:
        """Open the calendar; this closes the mail."""
        return self._open_app("calendar")

    def open_mail(self) -> str:
        """Open the mail; this closes the calendar."""
        return self._open_app("mail")

    def reward(self) -> dict[str, float]:
        """Return `outcome` (1 when exactly the wanted changes were made and the answer is right), `side_effects`.

        And `progress`, if it is wanted: a share of what was wanted, of an episode without success and side effects.
        """
        case = self._require_case()
        changes = _changes(case.start, self._app.state())
        unwanted = changes - case.changes
        met = [change in changes for change in case.changes] + self._right_fields(case)
        terms = {"outcome": float(all(met) and not unwanted), "side_effects": SIDE_EFFECTS if unwanted else 0.0}
        if not self.progress:
            return terms
        share = 0.0 if terms["outcome"] or unwanted else sum(met) / len(met)
        return terms | {"progress": self.progress * share}

    def oracle(
        self, *, quality: float = 1.0, rng: random.Random | None = None
    ) -> Generator[JsonObject, tuple[Message, ...], None]:
        """Solve the current task from what tools and user answer; below quality 1 with wrong decisions."""
        template = _template(self.task)
        assistant = Assistant(self, template.told(self.task["goal"]), quality, rng or random.Random(0))
        return assistant.work(template.selector.name, template.effect.name)

    def snapshot(self) -> bytes:
        """Return task, answer and calls, what was said and opened, and the database."""
        said = {"fields": self._fields, "talk": self._talk, "opened": self._opened}
        return json.dumps(self.dump_episode() | said).encode() + b"\n" + self._app.snapshot()

    def restore(self, data: bytes) -> None:
        """Go back to a snapshot, of this environment or another one."""
        header, database = data.split(b"\n", 1)
        said = json.loads(header)
        self.load_episode(said)
        self._fields, self._talk, self._opened = said["fields"], said["talk"], said["opened"]
        self._case = _case_of(self.task)
        self._app.restore(database)
        self._show_tools()

    def state(self) -> Json:
        """Return the workspace's tables."""
        return self._app.state()

    def state_hash(self) -> str:
        """Return the hash of the workspace's content."""
        return self._app.state_hash()

    def state_diff(self) -> list[JsonObject]:
        """Return what changed since the last call, as JSON Patch operations."""
        return self._app.state_diff()

    def close(self) -> None:
        """Free the database."""
        self._app.close()
        super().close()

    def _make_tools(self) -> Iterator[Tool]:
        names = (*CONTACT_TOOLS, *CALENDAR_TOOLS, *MAIL_TOOLS)
        yield from (as_tool(getattr(self._app, name)) for name in names)
        yield from (as_tool(self.open_calendar), as_tool(self.open_mail), replace(as_tool(self.submit), name="answer"))

    def _open_app(self, name: str) -> str:
        self._opened = name
        self._show_tools()
        return "ok"

    def _show_tools(self) -> None:
        self.tools = {tool.name: tool for tool in self.extra_tools()}

    def _right_fields(self, case: Case) -> list[bool]:
        given = self._fields or {}
        return [normalize(given.get(name, "")) == normalize(value) for name, value in (case.answer or {}).items()]

    def _require_case(self) -> Case:
        if self._case is None:
            raise EnvError("the workspace has no task yet: call reset() first")
        return self._case


def normalize(value: str | int) -> str:
    """Return an answer's field without case and extra white space."""
    return " ".join(str(value).casefold().split())


def _changes(start: JsonObject, state: JsonObject) -> frozenset[str]:
    """Return what changed, each a JSON Patch operation as text; new meetings are numbered anew, from the first number.

    Otherwise a meeting would count as another one only because a wrong one was booked, and cancelled, before it.
    """
    names = {
        old: f"M{FIRST_NEW + n}" for n, old in enumerate(sorted(state["meetings"].keys() - start["meetings"].keys()))
    }
    if any(old != new for old, new in names.items()):
        state = state | {
            "meetings": {names.get(key, key): row for key, row in state["meetings"].items()},
            "guests": dict(_renamed(key, row, names) for key, row in state["guests"].items()),
        }
    return frozenset(json.dumps(operation, sort_keys=True) for operation in patch(start, state))


def _renamed(key: str, row: JsonObject, names: Mapping[str, str]) -> tuple[str, JsonObject]:
    meeting = names.get(row["meeting"], row["meeting"])
    return f"{meeting}-{row['contact']}", row | {"meeting": meeting}


def _case_of(task: JsonObject) -> Case:
    return _case(_template(task).name, task["seed"], json.dumps(task["goal"], sort_keys=True))


@lru_cache(maxsize=256)
def _case(template_name: str, seed: int, goal_json: str) -> Case:
    """Build a task's case; cached, because the episodes of a group share it."""
    template, goal, world, app = TEMPLATES[template_name], json.loads(goal_json), make_world(seed), WorkspaceApp()
    load_world(app, world)
    snapshot, start = app.snapshot(), app.state()
    answer = template.solve(app, world, goal)
    changes = _changes(start, app.state())
    app.close()
    return Case(snapshot=snapshot, start=start, changes=changes, answer=answer, user=user_of(template, goal, seed))


def _template(task: JsonObject) -> Template:
    missing = [key for key in ("template", "seed", "goal", "instruction") if key not in task]
    if missing:
        raise TaskError(f"a workspace task has no '{missing[0]}'. Use rows of Workspace.tasks(split).")
    name = task["template"]
    if name not in TEMPLATES:
        raise TaskError(f"the workspace has no template '{name}'.{nearest(name, TEMPLATES)}")
    return TEMPLATES[name]


def _checked(chosen: Sequence[str] | None, tools: Mapping[str, Tool]) -> frozenset[str]:
    """Return the names of the tools to offer."""
    for name in chosen or ():
        if name not in tools:
            raise EnvError(f"Workspace has no tool '{name}'; it has {', '.join(tools)}.{nearest(name, tools)}")
    return frozenset(tools if chosen is None else chosen)


def _check_tools(template_names: set[str], tools: Sequence[str]) -> None:
    for name in sorted(template_names & TEMPLATES.keys()):
        missing = sorted(TEMPLATES[name].tools - set(tools))
        if missing:
            raise EnvError(f"the tasks '{name}' need the tool '{missing[0]}': offer it, or leave these tasks out")
