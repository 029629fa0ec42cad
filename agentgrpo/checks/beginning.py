"""Checks of what is there before anybody acts: that episodes begin, the task rows, the splits, the tools on offer.

It does not know what happens after the first message.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Sequence

from gymnasium.utils.env_checker import check_env as gymnasium_check_env

from agentgrpo.checks.subject import NotApplicable, Problem, Subject, name_of
from agentgrpo.tasks import GIVE_TASKS, load_tasks
from agentgrpo.tooling import one_line
from agentgrpo.types import JsonObject, Task

MOST_TOOL = 6_000  # characters of one tool's schema: some 1,500 tokens
MOST_TOOLS = 24_000  # of all of them, which stand in every prompt
_COLOUR = re.compile(r"\x1b\[\d*m")
_TYPES = ("type", "enum", "const", "anyOf", "oneOf", "allOf")


def begins(subject: Subject) -> str:
    """Check that an episode begins, with text."""
    for task in subject.some():
        env, obs, info = subject.start(task)
        env.close()
        if not isinstance(obs, str):
            raise Problem(
                f"task {name_of(task)}: the observation is a {type(obs).__name__}, expected text: wrap the environment "
                "so that what it shows and what it takes is text"
            )
        told = [obs, *(str(message.get("content") or "") for message in info.get("messages") or ())]
        if not any(text.strip() for text in told):
            raise Problem(f"task {name_of(task)}: the episode begins with nothing: the agent is told no task")
    return f"episodes begin, on {len(subject.some())} tasks"


def tasks(subject: Subject) -> str:
    """Check that there are training tasks; rows that cannot be used were refused before."""
    if not subject.tasks:
        raise Problem(f"no training tasks: return rows from tasks('train'), or {GIVE_TASKS}")
    return f"{len(subject.tasks)} of {len(subject.train)} training tasks are used here"


def splits(subject: Subject) -> str:
    """Check that nothing held out is trained on, under this id or another."""
    ids = {task.id for task in subject.train}
    train = {content: task.id for task in subject.train if (content := _content(task))}
    found = {name: tasks for name, tasks in _held_out(subject) if tasks}
    if not found:
        raise NotApplicable("nothing is held out here: set heldout in the config (a share, a file or a split)")
    for name, tasks in found.items():
        for task in tasks:
            if task.id in ids:
                raise Problem(f"task '{task.id}' is both trained on and in the split '{name}': ids must differ")
            if (twin := train.get(_content(task) or "")) is not None:
                raise Problem(
                    f"task '{task.id}' of the split '{name}' is training task '{twin}' under another id: success on "
                    "it says nothing; take it out of one of them"
                )
    sizes = ", ".join(f"{len(tasks)} in {name}" for name, tasks in found.items())
    return f"{len(subject.train)} training tasks share none with those held out ({sizes})"


def gymnasium(subject: Subject) -> str:
    """Check with Gymnasium's own checker."""
    env = subject.source.make()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            gymnasium_check_env(env.unwrapped)
    except (AssertionError, UserWarning) as error:
        raise Problem(one_line(_COLOUR.sub("", str(error)), 1000)) from error
    finally:
        env.close()
    return "gymnasium.utils.env_checker.check_env passes"


def tools(subject: Subject) -> str:
    """Check what the model reads of the tools: names, descriptions, types, size."""
    if subject.source.action_format == "text":
        raise NotApplicable("actions are text, not calls")
    most = 0
    for task in subject.some():
        env, _, info = subject.start(task)
        env.close()
        offered = list(info.get("tools") or ())
        _check_names([tool["function"]["name"] for tool in offered])
        for tool in offered:
            _check_tool(tool["function"])
        size = len(json.dumps(offered))
        if size > MOST_TOOLS:
            raise Problem(
                f"task {name_of(task)}: the schemas of {len(offered)} tools take {size:,} characters of every prompt, "
                f"at most {MOST_TOOLS:,}: offer fewer (tools=[...]), or say less in their docstrings"
            )
        most = max(most, len(offered))
    if not most:
        raise NotApplicable("no tools, so the agent only speaks; if it should act, mark methods with @ag.tool")
    return f"{most} tool{'s' if most > 1 else ''}, each described and typed"


def _check_names(names: Sequence[str]) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise Problem(f"two tools are called '{twice}': a call could mean either; rename one with @tool(name=...)")


def _check_tool(function: JsonObject) -> None:
    name = function["name"]
    if not str(function.get("description") or "").strip():
        raise Problem(
            f"tool '{name}' has no description: give it a docstring that says what it does, the model reads it"
        )
    for parameter, schema in function.get("parameters", {}).get("properties", {}).items():
        if not any(key in schema for key in _TYPES):
            raise Problem(f"tool '{name}': parameter '{parameter}' has no type; write {parameter}: str (not Any)")
    size = len(json.dumps(function))
    if size > MOST_TOOL:
        raise Problem(
            f"tool '{name}': its schema takes {size:,} characters of every prompt, at most {MOST_TOOL:,}: shorten its "
            "docstring, or give a flat list of parameters instead of nested models"
        )


def _held_out(subject: Subject) -> Iterator[tuple[str, Sequence[Task]]]:
    if subject.heldout is not None:
        yield "heldout", subject.heldout
        return
    for split in getattr(subject.source.env_class, "splits", ()):
        if split != "train":
            yield split, load_tasks(subject.source.tasks(split), split=split)


def _content(task: Task) -> str | None:
    """Return what tells a task from another but its id; None when there is only that."""
    row = {key: value for key, value in task.row.items() if key not in ("task_id", "weight")}
    return json.dumps(row, sort_keys=True) if row else None
