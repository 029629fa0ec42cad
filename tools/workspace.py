"""An office's workspace, as one of its people sees it: contacts, a calendar of one week, mail, and the house's rules.

It does not know tasks or rewards, and no clock: whose workspace it is and which day it is stand in the table `office`.
A meeting lasts one hour. A rule that is violated raises ToolError and changes nothing.
"""

from __future__ import annotations

from typing import ClassVar

from agentgrpo.errors import ToolError
from agentgrpo.tooling import one_line
from agentgrpo.tools.appstate import AppState, Row
from agentgrpo.types import JsonObject

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri")
HOURS = range(9, 17)  # when a meeting can begin
REPLIES = ("yes", "no")  # to an invitation; "none" until there is one
MAX_TEXT = 200  # characters of a title, a subject or a mail
FIRST_NEW = 901  # number of the first meeting booked and the first mail sent

_IN_ORDER = "ORDER BY instr('MonTueWedThuFri', day), hour, meetings.id"
_ATTENDED = "(organiser = ? OR meetings.id IN (SELECT meeting FROM guests WHERE contact = ? AND reply != 'no'))"


class WorkspaceApp(AppState):
    """The workspace: every public method from `today` on is something its owner can do."""

    schema = """
    CREATE TABLE office (id TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE contacts (id TEXT PRIMARY KEY, name TEXT NOT NULL, phone INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE rooms (id TEXT PRIMARY KEY, seats INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE meetings (id TEXT PRIMARY KEY, title TEXT NOT NULL, organiser TEXT NOT NULL, day TEXT NOT NULL,
                           hour INTEGER NOT NULL, room TEXT NOT NULL, series TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE guests (id TEXT PRIMARY KEY, meeting TEXT NOT NULL, contact TEXT NOT NULL,
                         reply TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE mails (id TEXT PRIMARY KEY, number INTEGER NOT NULL, thread TEXT NOT NULL, sender TEXT NOT NULL,
                        receiver TEXT NOT NULL, subject TEXT NOT NULL, text TEXT NOT NULL) WITHOUT ROWID;
    """
    contact_tools: ClassVar[tuple[str, ...]] = ("today", "find_contact", "get_contact")
    calendar_tools: ClassVar[tuple[str, ...]] = (
        *("find_meeting", "list_meetings", "get_meeting", "free_hours", "free_rooms"),
        *("book_meeting", "move_meeting", "set_room", "invite", "answer_invite"),
        *("cancel_meeting", "move_series", "cancel_series"),
    )
    mail_tools: ClassVar[tuple[str, ...]] = (
        *("find_mail", "list_mails", "read_mail", "reply_mail", "send_mail", "forward_mail"),
    )

    # Contacts

    def today(self) -> JsonObject:
        """Tell which day it is."""
        return {"day": self._office("today")}

    def find_contact(self, name: str) -> JsonObject:
        """Find a contact by full name."""
        found = self.row("SELECT id FROM contacts WHERE lower(name) = lower(?)", name.strip())
        if found is None:
            raise ToolError(f"nobody is called '{one_line(name, 40)}'")
        return {"contact": found["id"]}

    def get_contact(self, contact: str) -> JsonObject:
        """Show a contact's name and phone."""
        row = self._contact(contact)
        return {"contact": row["id"], "name": row["name"], "phone": row["phone"]}

    # Calendar: looking

    def find_meeting(self, contact: str) -> JsonObject:
        """Find your next meeting with a contact."""
        self._contact(contact)
        me = self._office("me")
        where = f"SELECT * FROM meetings WHERE {_ATTENDED} AND {_ATTENDED} {_IN_ORDER}"
        coming = [row for row in self.rows(where, me, me, contact, contact) if not self._is_past(row["day"])]
        if not coming:
            raise ToolError(f"you have no coming meeting with {contact}")
        return {"meeting": coming[0]["id"], "day": coming[0]["day"], "hour": coming[0]["hour"]}

    def list_meetings(self, day: str) -> list[JsonObject]:
        """List your meetings on a day, in order."""
        me = self._office("me")
        found = self.rows(f"SELECT * FROM meetings WHERE day = ? AND {_ATTENDED} {_IN_ORDER}", _day(day), me, me)
        return [{"meeting": row["id"], "title": row["title"], "hour": row["hour"]} for row in found]

    def get_meeting(self, meeting: str) -> JsonObject:
        """Show a meeting: title, day, hour, room, organiser, guests."""
        row = self._meeting(meeting)
        shown = {"meeting": row["id"], "title": row["title"], "day": row["day"], "hour": row["hour"]}
        shown |= {"room": row["room"], "organiser": row["organiser"], "guests": self._guests(meeting)}
        return shown | ({"series": row["series"]} if row["series"] else {})

    def free_hours(self, contact: str, day: str) -> list[int]:
        """List the hours of a day when you and a contact are both free."""
        self._contact(contact)
        me = self._office("me")
        where = f"SELECT hour FROM meetings WHERE day = ? AND ({_ATTENDED} OR {_ATTENDED})"
        busy = {row["hour"] for row in self.rows(where, _day(day), me, me, contact, contact)}
        return [hour for hour in HOURS if hour not in busy]

    def free_rooms(self, day: str, hour: int) -> list[str]:
        """List the rooms that are free at an hour of a day."""
        taken = "SELECT room FROM meetings WHERE day = ? AND hour = ?"
        return [
            row["id"]
            for row in self.rows(f"SELECT id FROM rooms WHERE id NOT IN ({taken}) ORDER BY id", _day(day), _hour(hour))
        ]

    # Calendar: changing

    def book_meeting(self, contact: str, title: str, day: str, hour: int, room: str) -> JsonObject:
        """Book a meeting with a contact in a room."""
        self._somebody_else(contact)
        title = _text(title, "title")
        self._not_past(_day(day))
        self._free_room(room, day, _hour(hour), people=2)
        new = f"M{self._next('meetings')}"
        row = {"id": new, "title": title, "organiser": self._office("me"), "day": day, "hour": hour, "room": room}
        self.insert("meetings", [row | {"series": ""}])
        self._add_guest(new, contact)
        return {"meeting": new, "day": day, "hour": hour, "room": room}

    def move_meeting(self, meeting: str, day: str, hour: int) -> JsonObject:
        """Move a meeting of yours; of a series, only this one."""
        row = self._own_meeting(meeting)
        self._not_past(_day(day))
        if (row["day"], row["hour"]) == (day, _hour(hour)):
            raise ToolError(f"{meeting} is on {day} at {hour} already")
        self._free_room(row["room"], day, hour)
        self.change("UPDATE meetings SET day = ?, hour = ? WHERE id = ?", day, hour, meeting)
        return {"meeting": meeting, "day": day, "hour": hour}

    def set_room(self, meeting: str, room: str) -> JsonObject:
        """Move a meeting of yours to another room."""
        row = self._own_meeting(meeting)
        if row["room"] == room:
            raise ToolError(f"{meeting} is in {room} already")
        self._free_room(room, row["day"], row["hour"], people=1 + len(self._guests(meeting)))
        self.change("UPDATE meetings SET room = ? WHERE id = ?", room, meeting)
        return {"meeting": meeting, "room": room}

    def invite(self, meeting: str, contact: str) -> JsonObject:
        """Invite a contact to a meeting of yours."""
        row = self._own_meeting(meeting)
        self._somebody_else(contact)
        guests = self._guests(meeting)
        if contact in guests:
            raise ToolError(f"{contact} is invited to {meeting} already")
        self._seats(row["room"], people=2 + len(guests))
        self._add_guest(meeting, contact)
        return {"meeting": meeting, "guests": [*guests, contact]}

    def answer_invite(self, meeting: str, reply: str) -> JsonObject:
        """Answer yes or no to a meeting you are invited to."""
        row, me = self._meeting(meeting), self._office("me")
        if reply not in REPLIES:
            raise ToolError(f"reply must be yes or no, not '{one_line(reply, 40)}'")
        invitation = self.row("SELECT * FROM guests WHERE meeting = ? AND contact = ?", meeting, me)
        if invitation is None:
            raise ToolError(f"you are not invited to {meeting}")
        self._not_past(row["day"])
        if invitation["reply"] == reply:
            raise ToolError(f"you said {reply} to {meeting} already")
        self.change("UPDATE guests SET reply = ? WHERE id = ?", reply, invitation["id"])
        return {"meeting": meeting, "reply": reply}

    def cancel_meeting(self, meeting: str) -> JsonObject:
        """Cancel a meeting of yours; of a series, only this one."""
        self._own_meeting(meeting)
        self._remove(meeting)
        return {"meeting": meeting, "cancelled": 1}

    def move_series(self, meeting: str, hour: int) -> JsonObject:
        """Move all coming meetings of a series of yours to another hour."""
        moved = [row for row in self._series(meeting) if row["hour"] != _hour(hour)]
        if not moved:
            raise ToolError(f"the series of {meeting} is at {hour} already")
        for row in moved:
            self._free_room(row["room"], row["day"], hour)
        for row in moved:
            self.change("UPDATE meetings SET hour = ? WHERE id = ?", hour, row["id"])
        return {"meeting": meeting, "hour": hour, "moved": len(moved)}

    def cancel_series(self, meeting: str) -> JsonObject:
        """Cancel all coming meetings of a series of yours."""
        rows = self._series(meeting)
        for row in rows:
            self._remove(row["id"])
        return {"meeting": meeting, "cancelled": len(rows)}

    # Mail

    def find_mail(self, contact: str) -> JsonObject:
        """Find the newest mail from a contact."""
        self._contact(contact)
        found = self.rows("SELECT * FROM mails WHERE receiver = ? ORDER BY number DESC", self._office("me"))
        newest = next((row for row in found if row["sender"] == contact), None)
        if newest is None:
            raise ToolError(f"there is no mail from {contact}")
        return {"mail": newest["id"], "subject": newest["subject"]}

    def list_mails(self) -> list[JsonObject]:
        """List the mails you got, newest first."""
        found = self.rows("SELECT * FROM mails WHERE receiver = ? ORDER BY number DESC", self._office("me"))
        return [{"mail": row["id"], "contact": row["sender"], "subject": row["subject"]} for row in found]

    def read_mail(self, mail: str) -> JsonObject:
        """Read a mail you got or sent."""
        row = self._mail(mail)
        return {"mail": row["id"], "contact": row["sender"], "subject": row["subject"], "text": row["text"]}

    def reply_mail(self, mail: str, text: str) -> JsonObject:
        """Reply in the thread of a mail."""
        row, me = self._received(mail), self._office("me")
        newest = self.row("SELECT id FROM mails WHERE thread = ? ORDER BY number DESC", row["thread"])
        if newest is not None and newest["id"] != mail:
            raise ToolError(f"{mail} is not the newest mail of its thread: that is {newest['id']}")
        return self._send(me, row["sender"], row["subject"], _text(text, "mail"), row["thread"])

    def send_mail(self, contact: str, subject: str, text: str) -> JsonObject:
        """Send a contact a mail on a new subject."""
        self._somebody_else(contact)
        subject, text, me = _text(subject, "subject"), _text(text, "mail"), self._office("me")
        same = "lower(subject) = lower(?) AND ? IN (sender, receiver) AND ? IN (sender, receiver)"
        thread = self.row(f"SELECT thread FROM mails WHERE {same} ORDER BY number DESC", subject, contact, me)
        if thread is not None:
            raise ToolError(f"thread {thread['thread']} with {contact} has that subject: reply to its newest mail")
        return self._send(me, contact, subject, text, "")

    def forward_mail(self, mail: str, contact: str) -> JsonObject:
        """Forward a mail you got to a contact."""
        row = self._received(mail)
        self._somebody_else(contact)
        if contact == row["sender"]:
            raise ToolError(f"{mail} is from {contact}")
        return self._send(self._office("me"), contact, row["subject"], row["text"], "")

    # What the rules are made of

    def _office(self, key: str) -> str:
        row = self.row("SELECT value FROM office WHERE id = ?", key)
        assert row is not None, f"the world has no {key}"
        return str(row["value"])

    def _is_past(self, day: str) -> bool:
        return DAYS.index(day) < DAYS.index(self._office("today"))

    def _not_past(self, day: str) -> None:
        if self._is_past(day):
            raise ToolError(f"{day} is past, today is {self._office('today')}")

    def _contact(self, contact: str) -> Row:
        row = self.row("SELECT * FROM contacts WHERE id = ?", contact)
        if row is None:
            raise ToolError(f"no contact '{one_line(contact, 40)}': find_contact gives the id")
        return row

    def _somebody_else(self, contact: str) -> None:
        self._contact(contact)
        if contact == self._office("me"):
            raise ToolError(f"{contact} is you")

    def _meeting(self, meeting: str) -> Row:
        row = self.row("SELECT * FROM meetings WHERE id = ?", meeting)
        if row is None:
            raise ToolError(f"no meeting '{one_line(meeting, 40)}': list_meetings gives the ids")
        return row

    def _own_meeting(self, meeting: str) -> Row:
        row = self._meeting(meeting)
        if row["organiser"] != self._office("me"):
            raise ToolError(f"{meeting} is {row['organiser']}'s: only the organiser may change it")
        self._not_past(row["day"])
        return row

    def _series(self, meeting: str) -> list[Row]:
        series = self._own_meeting(meeting)["series"]
        if not series:
            raise ToolError(f"{meeting} is no series")
        rows = self.rows(f"SELECT * FROM meetings WHERE series = ? {_IN_ORDER}", series)
        return [row for row in rows if not self._is_past(row["day"])]

    def _guests(self, meeting: str) -> list[str]:
        return [row["contact"] for row in self.rows("SELECT * FROM guests WHERE meeting = ? ORDER BY id", meeting)]

    def _add_guest(self, meeting: str, contact: str) -> None:
        row = {"id": f"{meeting}-{contact}", "meeting": meeting, "contact": contact, "reply": "none"}
        self.insert("guests", [row])

    def _remove(self, meeting: str) -> None:
        self.change("DELETE FROM guests WHERE meeting = ?", meeting)
        self.change("DELETE FROM meetings WHERE id = ?", meeting)

    def _seats(self, room: str, people: int) -> None:
        row = self.row("SELECT seats FROM rooms WHERE id = ?", room)
        if row is None:
            rooms = ", ".join(found["id"] for found in self.rows("SELECT id FROM rooms ORDER BY id"))
            raise ToolError(f"no room '{one_line(room, 40)}': there are {rooms}")
        if row["seats"] < people:
            raise ToolError(f"{room} has {row['seats']} seats, {people} are needed")

    def _free_room(self, room: str, day: str, hour: int, people: int = 0) -> None:
        self._seats(room, people)
        where = "SELECT id FROM meetings WHERE room = ? AND day = ? AND hour = ?"
        if self.row(where, room, day, hour) is not None:
            raise ToolError(f"{room} is taken on {day} at {hour}")

    def _mail(self, mail: str) -> Row:
        me = self._office("me")
        row = self.row("SELECT * FROM mails WHERE id = ? AND ? IN (sender, receiver)", mail, me)
        if row is None:
            raise ToolError(f"no mail '{one_line(mail, 40)}': list_mails gives the ids")
        return row

    def _received(self, mail: str) -> Row:
        row = self._mail(mail)
        if row["sender"] == self._office("me"):
            raise ToolError(f"{mail} is your own mail")
        return row

    def _send(self, me: str, contact: str, subject: str, text: str, thread: str) -> JsonObject:
        number = self._next("mails")
        row = {"id": f"N{number}", "number": number, "thread": thread or f"N{number}", "sender": me}
        self.insert("mails", [row | {"receiver": contact, "subject": subject, "text": text}])
        return {"mail": row["id"], "thread": row["thread"]}

    def _next(self, table: str) -> int:
        newest = self.row(f"SELECT MAX(CAST(substr(id, 2) AS INTEGER)) AS number FROM {table}")
        return max(FIRST_NEW, 1 + int((newest or {}).get("number") or 0))


def _day(day: str) -> str:
    if day not in DAYS:
        raise ToolError(f"no day '{one_line(day, 40)}': a day is {', '.join(DAYS)}")
    return day


def _hour(hour: int) -> int:
    if hour not in HOURS:
        raise ToolError(f"an hour is from {HOURS[0]} to {HOURS[-1]}")
    return hour


def _text(text: str, what: str) -> str:
    text = text.strip()
    if not 1 <= len(text) <= MAX_TEXT or not text.isprintable():
        raise ToolError(f"a {what} needs 1 to {MAX_TEXT} printable characters")
    return text
