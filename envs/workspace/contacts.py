"""The effects on contacts: what a task can ask for once it is said which person is meant.

They do not know how the person was chosen. A sampler returns None where nothing suitable exists.
"""

from __future__ import annotations

import random

from agentgrpo.envs.templates import please
from agentgrpo.envs.workspace.parts import Effect
from agentgrpo.envs.workspace.world import TEXTS, Contact, World
from agentgrpo.tools.workspace import WorkspaceApp
from agentgrpo.types import JsonObject


def _any(world: World, contact: Contact, rng: random.Random) -> JsonObject:
    return {}


def _sample_day(world: World, contact: Contact, rng: random.Random) -> JsonObject | None:
    days = sorted({day for day, _ in world.slots((world.me, contact.id))})
    return {"day": rng.choice(days)} if days else None


def _sample_mail(world: World, contact: Contact, rng: random.Random) -> JsonObject:
    return {"subject": world.new_title(rng), "text": rng.choice(TEXTS)}


def _sample_meeting(world: World, contact: Contact, rng: random.Random) -> JsonObject | None:
    room = rng.choice(world.rooms)[0]
    slots = world.slots((world.me, contact.id), room)
    if not slots:
        return None
    day, hour = rng.choice(slots)
    return {"title": world.new_title(rng), "day": day, "hour": hour, "room": room}


def _sample_first(world: World, contact: Contact, rng: random.Random) -> JsonObject | None:
    """Draw a day, and a room that is free at the first hour of it when both are."""
    firsts = dict(reversed(world.slots((world.me, contact.id))))
    fits = [(day, room) for day, hour in firsts.items() for room, _ in world.rooms if world.has_room(room, day, hour)]
    if not fits:
        return None
    day, room = rng.choice(fits)
    return {"title": world.new_title(rng), "day": day, "room": room}


def _sample_agreed(world: World, contact: Contact, rng: random.Random) -> JsonObject | None:
    """Draw a meeting at one of the first three hours of a day when both are free: the one the user will agree to."""
    words = _sample_meeting(world, contact, rng)
    if words is None:
        return None
    hours = [hour for day, hour in world.slots((world.me, contact.id)) if day == words["day"]]
    fits = [hour for hour in hours[:3] if world.has_room(words["room"], words["day"], hour)]
    return words | {"hour": rng.choice(fits)} if fits else None


def _tell_phone(app: WorkspaceApp, world: World, contact: Contact, goal: JsonObject) -> JsonObject:
    return {"phone": contact.phone}


def _tell_free(app: WorkspaceApp, world: World, contact: Contact, goal: JsonObject) -> JsonObject:
    return {"hour": app.free_hours(contact.id, goal["day"])[0]}


def _write(app: WorkspaceApp, world: World, contact: Contact, goal: JsonObject) -> None:
    app.send_mail(contact.id, goal["subject"], goal["text"])


def _book(app: WorkspaceApp, world: World, contact: Contact, goal: JsonObject) -> None:
    app.book_meeting(contact.id, goal["title"], goal["day"], goal["hour"], goal["room"])


def _book_first(app: WorkspaceApp, world: World, contact: Contact, goal: JsonObject) -> None:
    _book(app, world, contact, goal | _tell_free(app, world, contact, goal))


PHONE = Effect(
    name="phone",
    kind="contact",
    wordings=("What is the phone of {which}?", "Tell me the phone of {which}."),
    sample=_any,
    solve=_tell_phone,
    tools=("get_contact", "answer"),
)
FREE = Effect(
    name="free",
    kind="contact",
    wordings=(
        "At which hour on {day} are {which} and I first free?",
        "Tell me the first hour on {day} when {which} and I are free.",
    ),
    sample=_sample_day,
    solve=_tell_free,
    tools=("free_hours", "answer"),
)
WRITE = Effect(
    name="write",
    kind="contact",
    wordings=please("Write {which} about {subject}: {text}."),
    sample=_sample_mail,
    solve=_write,
    tools=("send_mail",),
    brief="Write {which} about {subject}.",
    asked=("text",),
)
BOOK = Effect(
    name="book",
    kind="contact",
    wordings=please("Book a {title} with {which} on {day} at {hour} in {room}."),
    sample=_sample_meeting,
    solve=_book,
    tools=("book_meeting",),
    brief="Book a {title} with {which} in {room}.",
    asked=("day", "hour"),
)
BOOK_FIRST = Effect(
    name="book_first",
    kind="contact",
    wordings=please("Book a {title} with {which} in {room} at the first hour on {day} when we are both free."),
    sample=_sample_first,
    solve=_book_first,
    tools=("free_hours", "book_meeting"),
)
BOOK_AGREED = Effect(
    name="book_agreed",
    kind="contact",
    wordings=BOOK.wordings,
    sample=_sample_agreed,
    solve=_book,
    tools=("free_hours", "book_meeting"),
    brief="Book a {title} with {which} in {room} on {day}. Ask me if the hour is right before you book it.",
    asked=("hour",),
)
