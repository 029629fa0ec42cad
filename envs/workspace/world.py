"""The worlds of the workspace environment: seven people, a week of meetings and their mail, made from a seed.

It does not know tasks. Every split uses the same words; what is new in a held-out world is how they combine.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from agentgrpo.tools.workspace import DAYS, HOURS, WorkspaceApp
from agentgrpo.types import JsonObject

# fmt: off
FIRST_NAMES = (
    "Abel", "Agnes", "Alma", "Boris", "Bruno", "Celia", "Claus", "Doris", "Edith", "Elias", "Erik", "Flora", "Frida",
    "Gerda", "Gloria", "Harald", "Helga", "Igor", "Irma", "Jonas", "Judith", "Klara", "Lars", "Lotte", "Magnus",
    "Marta", "Nils", "Norma", "Oscar", "Petra", "Rafael", "Rosa", "Selma", "Stefan", "Theo", "Ulla", "Viktor", "Wanda",
    "Xenia", "Yves",
)
LAST_NAMES = (
    "Abbott", "Ames", "Barlow", "Becker", "Blake", "Brandt", "Conrad", "Cruz", "Dorn", "Drake", "Egan", "Ellis", "Falk",
    "Finch", "Garner", "Gould", "Hardy", "Holm", "Irving", "Jansen", "Keller", "Kerr", "Lang", "Lind", "Meyer", "Munro",
    "Nolan", "Norris", "Olsen", "Payne", "Pratt", "Quist", "Rhodes", "Sauer", "Steen", "Thorpe", "Unger", "Voss",
    "Weber", "York",
)
TOPICS = (
    "brand", "budget", "design", "finance", "hiring", "launch", "legal", "market", "partner", "press", "product",
    "quality", "research", "safety", "sales", "travel",
)
KINDS = ("demo", "forum", "kickoff", "planning", "review", "summit", "sync", "workshop")
ROOMS = ("Cairo", "Delhi", "Kyoto", "Lima", "Oslo", "Paris", "Quito", "Rome", "Seoul", "Tunis", "Vienna", "Zagreb")
TEXTS = (
    "agreed", "confirmed", "congratulations", "delayed", "finished", "gladly", "later", "noted", "ready", "thanks",
)
# fmt: on
# Four digits: no phone is an hour.
PHONES = tuple(2003 + 241 * i for i in range(30))
CONTACT_IDS = tuple(f"C{n}" for n in range(10, 58))
MEETING_IDS = tuple(f"M{101 + 4 * i}" for i in range(120))
MAIL_IDS = tuple(f"N{101 + 6 * i}" for i in range(80))
SERIES_IDS = ("S1", "S2", "S3", "S4")
SEATS = (2, 4, 6)
PROPOSAL = "Can we meet on {day} at {hour}?"
HELDOUT_SEED = 1_000_000  # worlds from this seed on use the names and titles kept for the held-out splits
PEOPLE = 7

Slot: TypeAlias = tuple[str, int]  # day and hour
_SLOTS: tuple[Slot, ...] = tuple((day, hour) for day in DAYS for hour in HOURS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contact:
    """A person."""

    id: str
    name: str
    phone: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Meeting:
    """A meeting; `guests` pairs contacts with their replies."""

    id: str
    title: str
    organiser: str
    day: str
    hour: int
    room: str
    guests: tuple[tuple[str, str], ...]
    series: str = ""

    @property
    def attended(self) -> frozenset[str]:
        """Who comes: the organiser and all guests who did not say no."""
        return _attended(self.organiser, self.guests)

    @property
    def slot(self) -> Slot:
        """When it is."""
        return self.day, self.hour


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail:
    """A mail; `proposal` is the day and hour it asks for, if it asks for a meeting."""

    id: str
    thread: str
    sender: str
    receiver: str
    subject: str
    text: str
    proposal: Slot | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A start state, as plain data. The first contact is the owner of the workspace; meetings are in order of time."""

    today: str
    contacts: tuple[Contact, ...]
    rooms: tuple[tuple[str, int], ...]  # name, seats
    meetings: tuple[Meeting, ...]
    mails: tuple[Mail, ...]  # the oldest first
    is_heldout: bool  # whether its names and titles are those kept for the held-out splits

    @property
    def me(self) -> str:
        return self.contacts[0].id

    @property
    def others(self) -> tuple[Contact, ...]:
        return self.contacts[1:]

    @property
    def days(self) -> tuple[str, ...]:
        """The days that are not past."""
        return DAYS[DAYS.index(self.today) :]

    @property
    def inbox(self) -> tuple[Mail, ...]:
        """The mails that came in, newest first."""
        return tuple(mail for mail in reversed(self.mails) if mail.receiver == self.me)

    def coming(self, *contacts: str) -> list[Meeting]:
        """Return the meetings from today on that all of these attend."""
        return [m for m in self.meetings if m.day in self.days and m.attended.issuperset(contacts)]

    def has_room(self, room: str, day: str, hour: int) -> bool:
        """Whether a room is free then."""
        return not any((m.day, m.hour, m.room) == (day, hour, room) for m in self.meetings)

    def slots(self, people: Sequence[str], room: str | None = None) -> list[Slot]:
        """Return when, from today on, all of these are free, and the room."""
        wanted = set(people)
        taken = {m.slot for m in self.meetings if m.room == room or m.attended & wanted}
        return [slot for slot in _SLOTS if slot[0] in self.days and slot not in taken]

    def new_title(self, rng: random.Random) -> str:
        """Return a title that no meeting and no mail has, of those the world's split may use."""
        taken = {meeting.title for meeting in self.meetings} | {mail.subject for mail in self.mails}
        titles = _pairs(rng, TOPICS, KINDS, heldout=self.is_heldout)
        return next(title for title in titles if title not in taken)

    def contact_of(self, name: str) -> str:
        """Return the id of a full name."""
        return next(contact.id for contact in self.contacts if contact.name == name)


@lru_cache(maxsize=4096)
def _attended(organiser: str, guests: tuple[tuple[str, str], ...]) -> frozenset[str]:
    return frozenset((organiser, *(contact for contact, reply in guests if reply != "no")))


def is_kept(first: int, second: int) -> bool:
    """Whether a name or title of two words, given as their indices, is kept for the held-out splits."""
    return (first + second) % 5 == 0


@lru_cache(maxsize=512)
def make_world(seed: int) -> World:
    """Return the world of a seed. Names and titles of held-out worlds never occur in a training world."""
    return _Maker(random.Random(seed), heldout=seed >= HELDOUT_SEED).world()


class _Maker:
    """Makes one world, person by person and meeting by meeting."""

    def __init__(self, rng: random.Random, *, heldout: bool) -> None:
        self.rng, self.is_heldout = rng, heldout
        self.today = rng.choice(DAYS[:3])
        self.days = DAYS[DAYS.index(self.today) :]
        self.titles = _pairs(rng, TOPICS, KINDS, heldout=heldout)
        names = _pairs(rng, FIRST_NAMES, LAST_NAMES, heldout=heldout)
        ids, phones = rng.sample(CONTACT_IDS, PEOPLE), rng.sample(PHONES, PEOPLE)
        self.contacts = tuple(Contact(id=i, name=next(names), phone=p) for i, p in zip(ids, phones, strict=True))
        self.rooms = tuple((room, rng.choice(SEATS)) for room in rng.sample(ROOMS, 4))
        self.meeting_ids = iter(rng.sample(MEETING_IDS, 24))
        self.meetings: list[Meeting] = []
        self.busy: defaultdict[str, set[Slot]] = defaultdict(set)  # by person
        self.taken: defaultdict[Slot, set[str]] = defaultdict(set)  # rooms

    def world(self) -> World:
        me, *others = (contact.id for contact in self.contacts)
        self.rng.shuffle(others)
        for guest in others[:3]:
            self.meet(me, guest)
        for host in others[3:5]:
            self.meet(host, me)
        self.invitations(me, others[5], others[0])
        self.series(me, others[1])
        for _ in range(5):
            self.meet(*self.rng.sample(others, 2))
        if self.today != DAYS[0]:
            self.meet(me, others[4], days=DAYS[: DAYS.index(self.today)])
        self.meetings.sort(key=lambda meeting: (_SLOTS.index(meeting.slot), meeting.id))
        return World(
            today=self.today,
            contacts=self.contacts,
            rooms=self.rooms,
            meetings=tuple(self.meetings),
            mails=tuple(self.mails(me, others)),
            is_heldout=self.is_heldout,
        )

    def meet(self, host: str, guest: str, *, reply: str = "yes", days: Sequence[str] | None = None) -> None:
        """Add a meeting at a time when both and a room are free."""
        day, hour = self.rng.choice(self.slots((host, guest), days or self.days))
        rooms = [room for room, _ in self.rooms if room not in self.taken[day, hour]]
        self.add(next(self.titles), host, (guest, reply), (day, hour), self.rng.choice(rooms))

    def add(self, title: str, host: str, guest: tuple[str, str], slot: Slot, room: str, series: str = "") -> None:
        for person in (host, guest[0]):
            self.busy[person].add(slot)
        self.taken[slot].add(room)
        self.meetings.append(
            Meeting(
                id=next(self.meeting_ids),
                title=title,
                organiser=host,
                day=slot[0],
                hour=slot[1],
                room=room,
                guests=(guest,),
                series=series,
            )
        )

    def invitations(self, me: str, host: str, other: str) -> None:
        """Add two invitations that wait for a reply; the first may clash with a meeting of mine."""
        mine = [slot for slot in sorted(self.busy[me]) if len(self.taken[slot]) < len(self.rooms)]
        if self.rng.random() < 0.5 and mine:
            slot = self.rng.choice(mine)
            rooms = [room for room, _ in self.rooms if room not in self.taken[slot]]
            self.add(next(self.titles), host, (me, "none"), slot, self.rng.choice(rooms))
        else:
            self.meet(host, me, reply="none")
        self.meet(other, me, reply="none")

    def series(self, me: str, guest: str) -> None:
        """Add a series of two or three meetings of mine, at one hour and in one room, if there is an hour for it."""
        days = sorted(self.rng.sample(self.days, self.rng.choice((2, 3))), key=DAYS.index)
        room = self.rng.choice(self.rooms)[0]
        free = {slot for slot in self.slots((me, guest), days) if room not in self.taken[slot]}
        hours = [hour for hour in HOURS if all((day, hour) in free for day in days)]
        if hours:
            hour, title, series = self.rng.choice(hours), next(self.titles), self.rng.choice(SERIES_IDS)
            for day in days:
                self.add(title, me, (guest, "yes"), (day, hour), room, series)

    def mails(self, me: str, others: Sequence[str]) -> Iterator[Mail]:
        """Yield five mails to me, of four people or five, and my answer to one of them."""
        ids = iter(self.rng.sample(MAIL_IDS, 6))
        for number, sender in enumerate((*self.rng.sample(others, 4), others[0])):
            subject = next(self.titles)
            proposal = self.rng.choice(self.slots((me, sender), self.days)) if number % 2 == 0 else None
            text = self.rng.choice(TEXTS) if proposal is None else PROPOSAL.format(day=proposal[0], hour=proposal[1])
            thread = next(ids)
            yield Mail(
                id=thread, thread=thread, sender=sender, receiver=me, subject=subject, text=text, proposal=proposal
            )
            if number == 1:
                text = self.rng.choice(TEXTS)
                yield Mail(id=next(ids), thread=thread, sender=me, receiver=sender, subject=subject, text=text)

    def slots(self, people: Sequence[str], days: Sequence[str]) -> list[Slot]:
        """Return when all of these and a room are free."""
        busy = set[Slot]().union(*(self.busy[person] for person in people))
        full = {slot for slot, rooms in self.taken.items() if len(rooms) == len(self.rooms)}
        return [slot for slot in _SLOTS if slot[0] in days and slot not in busy and slot not in full]


def _pairs(rng: random.Random, first: Sequence[str], second: Sequence[str], *, heldout: bool) -> Iterator[str]:
    """Yield pairs of words without end of those that a split may use, each at most once."""
    seen: set[str] = set()
    while True:
        left, right = rng.randrange(len(first)), rng.randrange(len(second))
        pair = f"{first[left]} {second[right]}"
        if is_kept(left, right) == heldout and pair not in seen:
            seen.add(pair)
            yield pair


def load_world(app: WorkspaceApp, world: World) -> None:
    """Write a world into an empty app."""
    app.insert("office", [{"id": "me", "value": world.me}, {"id": "today", "value": world.today}])
    app.insert("contacts", [{"id": c.id, "name": c.name, "phone": c.phone} for c in world.contacts])
    app.insert("rooms", [{"id": room, "seats": seats} for room, seats in world.rooms])
    app.insert("meetings", [_meeting_row(meeting) for meeting in world.meetings])
    app.insert(
        "guests",
        [
            {"id": f"{meeting.id}-{contact}", "meeting": meeting.id, "contact": contact, "reply": reply}
            for meeting in world.meetings
            for contact, reply in meeting.guests
        ],
    )
    app.insert("mails", [_mail_row(number, mail) for number, mail in enumerate(world.mails, 1)])


def _meeting_row(m: Meeting) -> JsonObject:
    when = {"day": m.day, "hour": m.hour}
    return {"id": m.id, "title": m.title, "organiser": m.organiser, "room": m.room, "series": m.series} | when


def _mail_row(number: int, mail: Mail) -> JsonObject:
    row = {"id": mail.id, "number": number, "thread": mail.thread, "sender": mail.sender, "receiver": mail.receiver}
    return row | {"subject": mail.subject, "text": mail.text}
