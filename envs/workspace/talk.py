"""What is said in the workspace's dialogues: the scripted user of a task, and how words are told and understood.

It does not know the environment class; what was said is handed to the user by it.
"""

from __future__ import annotations

import re

from agentgrpo.envs.workspace.parts import Template
from agentgrpo.envs.workspace.world import ROOMS, TEXTS
from agentgrpo.tools.workspace import DAYS, HOURS, REPLIES
from agentgrpo.types import JsonObject
from agentgrpo.users import Fact, ScriptedUser

_ASKED_BY = {
    "day": ("day", "when"),
    "hour": ("hour", "time", "when"),
    "room": ("room", "where"),
    "text": ("text", "what", "message", "answer"),
}
_TOLD = {
    "day": ("On {}.", "{}, please."),
    "hour": ("At {}.", "{}, please."),
    "room": ("In {}.", "{}, please."),
    "text": ("Write {}.", "{}, please."),
}
_SHORT = {"day": "on {}", "hour": "at {}", "room": "in {}"}
_MEANING = {
    **dict.fromkeys(DAYS, "day"),
    **dict.fromkeys(map(str, HOURS), "hour"),
    **dict.fromkeys(ROOMS, "room"),
    **dict.fromkeys(TEXTS, "text"),
    **dict.fromkeys(REPLIES, "reply"),
}


def user_of(template: Template, goal: JsonObject, seed: int) -> ScriptedUser | None:
    """Return who gave a task, if that person can be talked to."""
    if template.manner == "asked":
        facts = (
            Fact(words=_ASKED_BY[key], said=tuple(wording.format(goal[key]) for wording in _TOLD[key]))
            for key in template.hidden
        )
        return ScriptedUser(seed=seed, facts=tuple(facts))
    if template.manner == "agreed":
        return ScriptedUser(seed=seed, accepted=frozenset(str(goal[key]) for key in template.hidden))
    if template.manner == "changed":
        new = " ".join(_SHORT[key].format(word) for key, word in goal["instead"].items())
        return ScriptedUser(seed=seed, change=(f"Sorry, {new} instead.", f"No, better {new}."))
    return None


def understand(text: str) -> JsonObject:
    """Return what a user's words mean, by what a word can stand for: a day, an hour, a room, a text, a reply."""
    words = [word for word in re.findall(r"\w+", text) if word in _MEANING]
    return {_MEANING[word]: int(word) if word.isdecimal() else word for word in words}
