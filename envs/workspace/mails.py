"""The effects on mails: what a task can ask for once it is said which mail is meant.

They do not know how it was chosen. A sampler returns None where a rule forbids it or nothing suitable exists.
"""

from __future__ import annotations

import random

from agentgrpo.envs.templates import please
from agentgrpo.envs.workspace.parts import Effect
from agentgrpo.envs.workspace.world import TEXTS, Mail, World
from agentgrpo.tools.workspace import WorkspaceApp
from agentgrpo.types import JsonObject


def _any(world: World, mail: Mail, rng: random.Random) -> JsonObject:
    return {}


def _sample_text(world: World, mail: Mail, rng: random.Random) -> JsonObject | None:
    newest = {m.thread: m for m in world.mails}[mail.thread]
    return {"text": rng.choice(TEXTS)} if newest is mail else None


def _sample_receiver(world: World, mail: Mail, rng: random.Random) -> JsonObject:
    return {"guest": rng.choice([contact.name for contact in world.others if contact.id != mail.sender])}


def _sample_proposal(world: World, mail: Mail, rng: random.Random) -> JsonObject | None:
    rooms = [room for room, _ in world.rooms if mail.proposal and world.has_room(room, *mail.proposal)]
    return {"room": rng.choice(rooms)} if rooms else None


def _tell_subject(app: WorkspaceApp, world: World, mail: Mail, goal: JsonObject) -> JsonObject:
    return {"subject": mail.subject}


def _reply(app: WorkspaceApp, world: World, mail: Mail, goal: JsonObject) -> None:
    app.reply_mail(mail.id, goal["text"])


def _forward(app: WorkspaceApp, world: World, mail: Mail, goal: JsonObject) -> None:
    app.forward_mail(mail.id, world.contact_of(goal["guest"]))


def _accept(app: WorkspaceApp, world: World, mail: Mail, goal: JsonObject) -> None:
    assert mail.proposal is not None, "only mails that ask for a meeting are sampled"
    app.book_meeting(mail.sender, mail.subject, *mail.proposal, goal["room"])


SUBJECT = Effect(
    name="subject",
    kind="mail",
    wordings=("What is the subject of {which}?", "Tell me the subject of {which}."),
    sample=_any,
    solve=_tell_subject,
    tools=("answer",),
)
REPLY = Effect(
    name="reply",
    kind="mail",
    wordings=please("Reply {text} to {which}."),
    sample=_sample_text,
    solve=_reply,
    tools=("reply_mail",),
    brief="Reply to {which}.",
    asked=("text",),
)
FORWARD = Effect(
    name="forward",
    kind="mail",
    wordings=please("Forward {which} to {guest}."),
    sample=_sample_receiver,
    solve=_forward,
    tools=("find_contact", "forward_mail"),
)
ACCEPT = Effect(
    name="accept",
    kind="mail",
    wordings=please("Book in {room} what {which} asks for, under its subject."),
    sample=_sample_proposal,
    solve=_accept,
    tools=("read_mail", "book_meeting"),
)
