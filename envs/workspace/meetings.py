"""The effects on meetings: what a task can ask for once it is said which meeting is meant.

They do not know how it was chosen. A sampler returns None where asking would make no sense: the goal is true already, a
rule forbids it, or nothing suitable exists.
"""

from __future__ import annotations

import random

from agentgrpo.envs.templates import please
from agentgrpo.envs.workspace.parts import Effect
from agentgrpo.envs.workspace.world import Meeting, World
from agentgrpo.tools.workspace import HOURS, REPLIES, WorkspaceApp
from agentgrpo.types import JsonObject


def _is_mine(world: World, meeting: Meeting) -> bool:
    return meeting.organiser == world.me


def _any(world: World, meeting: Meeting, rng: random.Random) -> JsonObject:
    return {}


def _mine(world: World, meeting: Meeting, rng: random.Random) -> JsonObject | None:
    return {} if _is_mine(world, meeting) else None


def _unanswered(world: World, meeting: Meeting, rng: random.Random) -> JsonObject | None:
    return {} if dict(meeting.guests).get(world.me) == "none" else None


def _sample_slot(world: World, meeting: Meeting, rng: random.Random) -> JsonObject | None:
    slots = world.slots(sorted(meeting.attended), meeting.room) if _is_mine(world, meeting) else []
    if not slots:
        return None
    day, hour = rng.choice(slots)
    return {"day": day, "hour": hour}


def _sample_room(world: World, meeting: Meeting, rng: random.Random) -> JsonObject | None:
    people = 1 + len(meeting.guests)
    rooms = [r for r, seats in world.rooms if seats >= people and world.has_room(r, meeting.day, meeting.hour)]
    return {"room": rng.choice(rooms)} if rooms and _is_mine(world, meeting) else None


def _sample_guest(world: World, meeting: Meeting, rng: random.Random) -> JsonObject | None:
    guests = [guest for guest, _ in meeting.guests]
    people = [contact.name for contact in world.others if contact.id not in guests]
    has_seat = dict(world.rooms)[meeting.room] >= 2 + len(guests)
    return {"guest": rng.choice(people)} if _is_mine(world, meeting) and has_seat else None


def _sample_reply(world: World, meeting: Meeting, rng: random.Random) -> JsonObject | None:
    reply = dict(meeting.guests).get(world.me)
    return None if reply is None else {"reply": rng.choice([word for word in REPLIES if word != reply])}


def _series(world: World, meeting: Meeting) -> list[Meeting]:
    is_one = bool(meeting.series) and _is_mine(world, meeting)
    return [m for m in world.coming(world.me) if m.series == meeting.series] if is_one else []


def _of_series(world: World, meeting: Meeting, rng: random.Random) -> JsonObject | None:
    return {} if _series(world, meeting) else None


def _sample_series_hour(world: World, meeting: Meeting, rng: random.Random) -> JsonObject | None:
    series = _series(world, meeting)
    if not series:
        return None
    free = set(world.slots(sorted(meeting.attended), meeting.room))
    hours = [hour for hour in HOURS if all((m.day, hour) in free for m in series)]
    return {"hour": rng.choice(hours)} if hours else None


def _tell_when(app: WorkspaceApp, world: World, meeting: Meeting, goal: JsonObject) -> JsonObject:
    return {"day": meeting.day, "hour": meeting.hour}


def _tell_where(app: WorkspaceApp, world: World, meeting: Meeting, goal: JsonObject) -> JsonObject:
    return {"room": meeting.room}


def _cancel(app: WorkspaceApp, world: World, meeting: Meeting, goal: JsonObject) -> None:
    app.cancel_meeting(meeting.id)


def _move(app: WorkspaceApp, world: World, meeting: Meeting, goal: JsonObject) -> None:
    app.move_meeting(meeting.id, goal["day"], goal["hour"])


def _set_room(app: WorkspaceApp, world: World, meeting: Meeting, goal: JsonObject) -> None:
    app.set_room(meeting.id, goal["room"])


def _invite(app: WorkspaceApp, world: World, meeting: Meeting, goal: JsonObject) -> None:
    app.invite(meeting.id, world.contact_of(goal["guest"]))


def _answer(app: WorkspaceApp, world: World, meeting: Meeting, goal: JsonObject) -> None:
    app.answer_invite(meeting.id, goal["reply"])


def _answer_if_free(app: WorkspaceApp, world: World, meeting: Meeting, goal: JsonObject) -> None:
    at_once = [m for m in world.coming(world.me) if m.slot == meeting.slot]
    app.answer_invite(meeting.id, "yes" if len(at_once) == 1 else "no")


def _cancel_or_decline(app: WorkspaceApp, world: World, meeting: Meeting, goal: JsonObject) -> None:
    if _is_mine(world, meeting):
        app.cancel_meeting(meeting.id)
    else:
        app.answer_invite(meeting.id, "no")


def _cancel_series(app: WorkspaceApp, world: World, meeting: Meeting, goal: JsonObject) -> None:
    app.cancel_series(meeting.id)


def _move_series(app: WorkspaceApp, world: World, meeting: Meeting, goal: JsonObject) -> None:
    app.move_series(meeting.id, goal["hour"])


WHEN = Effect(
    name="when",
    kind="meeting",
    wordings=("When is {which}?", "Tell me when {which} is."),
    sample=_any,
    solve=_tell_when,
    tools=("answer",),
)
WHERE = Effect(
    name="where",
    kind="meeting",
    wordings=("In which room is {which}?", "Tell me the room of {which}."),
    sample=_any,
    solve=_tell_where,
    tools=("get_meeting", "answer"),
)
CANCEL = Effect(
    name="cancel",
    kind="meeting",
    wordings=please("Cancel {which}."),
    sample=_mine,
    solve=_cancel,
    tools=("cancel_meeting",),
)
MOVE = Effect(
    name="move",
    kind="meeting",
    wordings=please("Move {which} to {day} at {hour}."),
    sample=_sample_slot,
    solve=_move,
    tools=("move_meeting",),
    brief="Move {which}.",
    asked=("day", "hour"),
)
ROOM = Effect(
    name="room",
    kind="meeting",
    wordings=please("Have {which} in room {room}."),
    sample=_sample_room,
    solve=_set_room,
    tools=("set_room",),
    brief="Have {which} in another room.",
    asked=("room",),
)
INVITE = Effect(
    name="invite",
    kind="meeting",
    wordings=please("Invite {guest} to {which}."),
    sample=_sample_guest,
    solve=_invite,
    tools=("find_contact", "invite"),
)
RSVP = Effect(
    name="rsvp",
    kind="meeting",
    wordings=please("Answer {reply} to the invitation to {which}."),
    sample=_sample_reply,
    solve=_answer,
    tools=("answer_invite",),
)
RSVP_IF_FREE = Effect(
    name="rsvp_if_free",
    kind="meeting",
    wordings=please("Answer yes to the invitation to {which} if I have nothing else at that hour, else no."),
    sample=_unanswered,
    solve=_answer_if_free,
    tools=("list_meetings", "answer_invite"),
)
CANCEL_OR_DECLINE = Effect(
    name="cancel_or_decline",
    kind="meeting",
    wordings=please("Cancel {which} if I am the organiser, else answer no."),
    sample=_any,
    solve=_cancel_or_decline,
    tools=("cancel_meeting", "answer_invite"),
)
CANCEL_SERIES = Effect(
    name="cancel_series",
    kind="meeting",
    wordings=please("Cancel {which} and the rest of its series."),
    sample=_of_series,
    solve=_cancel_series,
    tools=("cancel_series", "cancel_meeting"),  # the last one for the careless
)
MOVE_SERIES = Effect(
    name="move_series",
    kind="meeting",
    wordings=please("Move {which} and the rest of its series to {hour}."),
    sample=_sample_series_hour,
    solve=_move_series,
    tools=("move_series",),
)
