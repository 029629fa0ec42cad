"""The workspace environment: tasks over an office's calendar, mail and contacts, scored by final state and answer.

It does not know how the agent works; it only shows it the tools, and passes on what the user says.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from agentgrpo.envs.app_env import SIDE_EFFECTS, Case, changes_between
from agentgrpo.envs.template_env import TemplateEnv
from agentgrpo.envs.workspace.oracle import Assistant
from agentgrpo.envs.workspace.talk import user_of
from agentgrpo.envs.workspace.tasks import WORKSPACE_DRAW, WORKSPACE_ROWS
from agentgrpo.envs.workspace.templates import TEMPLATES
from agentgrpo.errors import EnvError, ToolError, nearest
from agentgrpo.tooling import Tool, as_tool
from agentgrpo.tools.workspace import FIRST_NEW, WorkspaceApp
from agentgrpo.types import JsonObject, Message

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


class Workspace(TemplateEnv):
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

    system_prompt = "You run an office. Use the tools, ask for what I left out; call answer if I asked, else say done."
    draw = WORKSPACE_DRAW
    shipped = WORKSPACE_ROWS
    app_type = WorkspaceApp
    app: WorkspaceApp

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
        if not 0.0 <= progress < 1.0:
            raise EnvError(f"progress is {progress}: success earns 1, so expected from 0 to less than 1, such as 0.2")
        super().__init__(
            tasks=tasks, reward_weights=reward_weights, templates=templates, levels=levels, render_mode=render_mode
        )
        self.progress = progress
        self._all_tools = {tool.name: tool for tool in self._make_tools()}
        self._chosen = _checked(tools, self._all_tools)
        self._opened = "both"  # a key of OFFERED
        self._fields: JsonObject | None = None  # of the answer
        self._talk: list[Message] = []  # between user and agent
        self._show_tools()
        self.check_tools(tools, templates)

    def reset_task(self, task: JsonObject) -> str:
        """Set up the task's world and return its instruction."""
        instruction = super().reset_task(task)
        self._opened = "mail" if TEMPLATES[task["template"]].manner == "closed" else "both"
        self._fields, self._talk = None, [{"role": "user", "content": instruction}]
        return instruction

    def extra_tools(self) -> list[Tool]:
        """Return the app's functions and what else is offered now."""
        return [
            self._all_tools[name]
            for name in OFFERED[self._opened]
            if name in self._chosen or name in ("open_calendar", "open_mail")
        ]

    def respond(self, content: str) -> str | None:
        """Let the user reply, if there is one to talk to."""
        user = user_of(TEMPLATES[self.task["template"]], self.task["goal"], self.task["seed"])
        self._talk.append({"role": "assistant", "content": content})
        reply = None if user is None else user.reply(self._talk)
        if reply is not None:
            self._talk.append({"role": "user", "content": reply})
        return reply

    def is_done(self) -> bool:
        """Return whether a question was answered."""
        return self._fields is not None

    @property
    def has_ended(self) -> bool:
        """Whether a question was answered, or something said that the user has no reply to."""
        return self.is_done() or (super().has_ended and self._talk[-1]["role"] == "assistant")

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
        """Return `outcome` and `side_effects`.

        `outcome` is 1 when exactly the wanted changes were made, the answer is right and the agent ended the episode.
        And `progress`, if it is wanted: a share of what was wanted, of an episode without success and side effects.
        """
        case = self.case
        changes = self.compare(case.start, self.app.state())
        unwanted = changes - case.changes
        met = [change in changes for change in case.changes] + self._right_fields(case)
        is_success = all(met) and not unwanted and not self._more_than_asked(case) and self.has_ended
        terms = {"outcome": float(is_success), "side_effects": SIDE_EFFECTS if unwanted else 0.0}
        if not self.progress:
            return terms
        share = 0.0 if terms["outcome"] or unwanted else sum(met) / len(met)
        return terms | {"progress": self.progress * share}

    def oracle(
        self, *, quality: float = 1.0, rng: random.Random | None = None
    ) -> Generator[JsonObject, tuple[Message, ...], None]:
        """Solve the current task from what tools and user answer; below quality 1 with wrong decisions."""
        template = TEMPLATES[self.task["template"]]
        assistant = Assistant(self, template.told(self.task["goal"]), quality, rng or random.Random(0))
        return assistant.work(template.selector.name, template.effect.name)

    def dump_episode(self) -> JsonObject:
        """Return task, answer and calls, what was said and what is opened."""
        said = {"fields": self._fields, "talk": self._talk, "opened": self._opened}
        return super().dump_episode() | said

    def load_episode(self, dumped: JsonObject) -> None:
        """Go back to what `dump_episode` returned."""
        super().load_episode(dumped)
        self._fields, self._talk, self._opened = dumped["fields"], dumped["talk"], dumped["opened"]
        self._show_tools()

    @staticmethod
    def compare(start: JsonObject, state: JsonObject) -> frozenset[str]:
        """Return what changed; new meetings are numbered anew, from the first number.

        Otherwise a meeting would count as another one only because a wrong one was booked, and cancelled, before it.
        """
        new = sorted(state["meetings"].keys() - start["meetings"].keys())
        names = {old: f"M{FIRST_NEW + n}" for n, old in enumerate(new)}
        if any(old != new for old, new in names.items()):
            state = state | {
                "meetings": {names.get(key, key): row for key, row in state["meetings"].items()},
                "guests": dict(_renamed(key, row, names) for key, row in state["guests"].items()),
            }
        return changes_between(start, state)

    def _make_tools(self) -> Iterator[Tool]:
        names = (*CONTACT_TOOLS, *CALENDAR_TOOLS, *MAIL_TOOLS)
        yield from (as_tool(getattr(self.app, name)) for name in names)
        yield from (as_tool(self.open_calendar), as_tool(self.open_mail), replace(as_tool(self.submit), name="answer"))

    def _open_app(self, name: str) -> str:
        self._opened = name
        self._show_tools()
        return "ok"

    def _show_tools(self) -> None:
        self.tools = {tool.name: tool for tool in self.extra_tools()}

    def _more_than_asked(self, case: Case) -> bool:
        """Return whether a question's answer has fields that are neither asked for nor the instruction's own words."""
        if not case.answer:
            return False
        given = {name: value for name, value in (self._fields or {}).items() if value and name not in case.answer}
        return any(normalize(value) != normalize(self.task["goal"].get(name, "")) for name, value in given.items())

    def _right_fields(self, case: Case) -> list[bool]:
        given = self._fields or {}
        return [normalize(given.get(name, "")) == normalize(value) for name, value in (case.answer or {}).items()]


def normalize(value: str | int) -> str:
    """Return an answer's field without case and extra white space."""
    return " ".join(str(value).casefold().split())


def _renamed(key: str, row: JsonObject, names: Mapping[str, str]) -> tuple[str, JsonObject]:
    meeting = names.get(row["meeting"], row["meeting"])
    return f"{meeting}-{row['contact']}", row | {"meeting": meeting}


def _checked(chosen: Sequence[str] | None, tools: Mapping[str, Tool]) -> frozenset[str]:
    """Return the names of the tools to offer."""
    for name in chosen or ():
        if name not in tools:
            raise EnvError(f"Workspace has no tool '{name}'; it has {', '.join(tools)}.{nearest(name, tools)}")
    return frozenset(tools if chosen is None else chosen)
