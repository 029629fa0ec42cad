"""The scripted assistant of the workspace: solves any task from the words it was told and what tools and user answer.

It never looks at the hidden state. Below quality 1 each decision is sometimes a guess among what was seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from agentgrpo.envs.attempt import Attempt, Script, T
from agentgrpo.envs.workspace.talk import understand
from agentgrpo.envs.workspace.world import ROOMS, TEXTS
from agentgrpo.tools.workspace import DAYS, HOURS, REPLIES
from agentgrpo.types import JsonObject
from agentgrpo.users import AGREES

Answer: TypeAlias = JsonObject | None  # its fields; None: none is wanted
_ANY: Mapping[str, Sequence[str | int]] = {"day": DAYS, "hour": HOURS, "room": ROOMS, "text": TEXTS, "reply": REPLIES}


class Assistant(Attempt):
    """An attempt whose words grow with what the user tells."""

    def ask(self, tool: str, /, **arguments: str | int) -> Script[Any]:
        """Make one call and return its parsed result; what is closed is opened first."""
        if tool not in self.actions.tools:
            yield self.actions.call("open_mail" if "open_mail" in self.actions.tools else "open_calendar")
        return (yield from super().ask(tool, **arguments))

    def talk(self, content: str) -> Script[str]:
        """Say something and return the user's reply; there is none when that ends the episode."""
        messages = yield self.actions.say(content)
        return str(messages[0]["content"])

    def word(self, key: str) -> Script[Any]:
        """Return a word of the instruction; one that it leaves out is asked for."""
        if key not in self.goal and self.is_careful():
            reply = yield from self.talk(f"{key}?")
            self.goal |= understand(reply)
        return self.decide(self.goal.get(key), _ANY[key])

    def decide(self, right: T | None, choices: Sequence[T]) -> T:
        """Return the right choice, or now and then any; any where the right one is not known."""
        return self.guess(choices) if right is None else super().decide(right, choices)

    def work(self, selector: str, effect: str) -> Script[None]:
        """Solve the task of a template's two parts; do it once more when the user has changed a word."""
        target = yield from SELECT[selector](self)
        while True:
            answer = yield from ACT[effect](self, target)
            if answer is not None and self.is_careful():  # the careless forget to tell
                yield self.actions.call("answer", **answer)
            reply = yield from self.talk("done")
            while not self.is_careful():
                reply = yield from self.talk("done")
            self.goal |= understand(reply)


def _name(assistant: Assistant) -> Script[JsonObject]:
    found: JsonObject = yield from assistant.ask("find_contact", name=assistant.goal["name"])
    return found


def _sender(assistant: Assistant) -> Script[JsonObject]:
    mail = yield from _about(assistant)
    return {"contact": mail["contact"]}


def _host(assistant: Assistant) -> Script[JsonObject]:
    meeting = yield from _titled(assistant)
    shown = yield from assistant.ask("get_meeting", meeting=meeting["meeting"])
    return {"contact": assistant.decide(shown["organiser"], [shown["organiser"], *shown["guests"]])}


def _with(assistant: Assistant) -> Script[JsonObject]:
    contact = yield from _name(assistant)
    found: JsonObject = yield from assistant.ask("find_meeting", contact=contact["contact"])
    return found


def _listed(assistant: Assistant, day: str) -> Script[list[JsonObject]]:
    rows = yield from assistant.ask("list_meetings", day=day)
    at = [row["hour"] for row in rows]
    return [row | {"day": day, "clashes": at.count(row["hour"]) > 1} for row in rows]


def _titled(assistant: Assistant) -> Script[JsonObject]:
    rows = yield from _listed(assistant, assistant.goal["on"])
    return assistant.decide(next(row for row in rows if row["title"] == assistant.goal["called"]), rows)


def _first(assistant: Assistant) -> Script[JsonObject]:
    rows = yield from _listed(assistant, assistant.goal["on"])
    return assistant.decide(rows[0], rows)


def _tomorrow(assistant: Assistant) -> Script[JsonObject]:
    today = yield from assistant.ask("today")
    rows = yield from _listed(assistant, DAYS[DAYS.index(today["day"]) + 1])
    return assistant.decide(rows[0], rows)


def _from(assistant: Assistant) -> Script[JsonObject]:
    contact = yield from _name(assistant)
    found: JsonObject = yield from assistant.ask("find_mail", contact=contact["contact"])
    return found


def _about(assistant: Assistant) -> Script[JsonObject]:
    rows: list[JsonObject] = yield from assistant.ask("list_mails")
    return assistant.decide(next(row for row in rows if row["subject"] == assistant.goal["about"]), rows)


def _newest(assistant: Assistant) -> Script[JsonObject]:
    rows: list[JsonObject] = yield from assistant.ask("list_mails")
    return assistant.decide(rows[0], rows)


def _tell_when(assistant: Assistant, meeting: JsonObject) -> Script[Answer]:
    yield from ()
    return {"day": meeting["day"], "hour": assistant.decide(meeting["hour"], HOURS)}


def _tell_where(assistant: Assistant, meeting: JsonObject) -> Script[Answer]:
    shown = yield from assistant.ask("get_meeting", meeting=meeting["meeting"])
    return {"room": shown["room"]}


def _cancel(assistant: Assistant, meeting: JsonObject) -> Script[Answer]:
    if assistant.is_careful():  # the careless only look
        yield from assistant.ask("cancel_meeting", meeting=meeting["meeting"])
    return None


def _move(assistant: Assistant, meeting: JsonObject) -> Script[Answer]:
    day = yield from assistant.word("day")
    hour = yield from assistant.word("hour")
    yield from assistant.ask("move_meeting", meeting=meeting["meeting"], day=day, hour=hour)
    return None


def _set_room(assistant: Assistant, meeting: JsonObject) -> Script[Answer]:
    room = yield from assistant.word("room")
    yield from assistant.ask("set_room", meeting=meeting["meeting"], room=room)
    return None


def _invite(assistant: Assistant, meeting: JsonObject) -> Script[Answer]:
    guest = yield from assistant.ask("find_contact", name=assistant.goal["guest"])
    if assistant.is_careful():
        yield from assistant.ask("invite", meeting=meeting["meeting"], contact=guest["contact"])
    return None


def _reply_yes_or_no(assistant: Assistant, meeting: JsonObject, reply: str) -> Script[Answer]:
    reply = assistant.decide(reply, REPLIES)
    yield from assistant.ask("answer_invite", meeting=meeting["meeting"], reply=reply)
    return None


def _rsvp(assistant: Assistant, meeting: JsonObject) -> Script[Answer]:
    return (yield from _reply_yes_or_no(assistant, meeting, assistant.goal["reply"]))


def _rsvp_if_free(assistant: Assistant, meeting: JsonObject) -> Script[Answer]:
    return (yield from _reply_yes_or_no(assistant, meeting, "no" if meeting["clashes"] else "yes"))


def _cancel_or_decline(assistant: Assistant, meeting: JsonObject) -> Script[Answer]:
    result = yield from assistant.ask("cancel_meeting", meeting=meeting["meeting"])
    if "error" in result and assistant.is_careful():  # only the organiser may
        yield from assistant.ask("answer_invite", meeting=meeting["meeting"], reply="no")
    return None


def _cancel_series(assistant: Assistant, meeting: JsonObject) -> Script[Answer]:
    tool = assistant.decide("cancel_series", ("cancel_series", "cancel_meeting"))
    yield from assistant.ask(tool, meeting=meeting["meeting"])
    return None


def _move_series(assistant: Assistant, meeting: JsonObject) -> Script[Answer]:
    hour = yield from assistant.word("hour")
    yield from assistant.ask("move_series", meeting=meeting["meeting"], hour=hour)
    return None


def _tell_phone(assistant: Assistant, contact: JsonObject) -> Script[Answer]:
    shown = yield from assistant.ask("get_contact", contact=contact["contact"])
    return {"phone": shown["phone"]}


def _first_free(assistant: Assistant, contact: JsonObject) -> Script[int]:
    hours: list[int] = yield from assistant.ask("free_hours", contact=contact["contact"], day=assistant.goal["day"])
    return assistant.decide(hours[0], hours)


def _tell_free(assistant: Assistant, contact: JsonObject) -> Script[Answer]:
    hour = yield from _first_free(assistant, contact)
    return {"hour": hour}


def _write(assistant: Assistant, contact: JsonObject) -> Script[Answer]:
    text = yield from assistant.word("text")
    yield from assistant.ask("send_mail", contact=contact["contact"], subject=assistant.goal["subject"], text=text)
    return None


def _book_at(assistant: Assistant, contact: JsonObject, title: str, day: str, hour: int) -> Script[Answer]:
    room = yield from assistant.word("room")
    yield from assistant.ask("book_meeting", contact=contact["contact"], title=title, day=day, hour=hour, room=room)
    return None


def _book(assistant: Assistant, contact: JsonObject) -> Script[Answer]:
    day = yield from assistant.word("day")
    hour = yield from assistant.word("hour")
    return (yield from _book_at(assistant, contact, assistant.goal["title"], day, hour))


def _book_first(assistant: Assistant, contact: JsonObject) -> Script[Answer]:
    hour = yield from _first_free(assistant, contact)
    return (yield from _book_at(assistant, contact, assistant.goal["title"], assistant.goal["day"], hour))


def _book_agreed(assistant: Assistant, contact: JsonObject) -> Script[Answer]:
    day = assistant.goal["day"]
    hours: list[int] = yield from assistant.ask("free_hours", contact=contact["contact"], day=day)
    hour = assistant.guess(hours)
    if assistant.is_careful():
        for hour in hours:
            reply = yield from assistant.talk(f"At {hour}?")
            if reply == AGREES:
                break
    return (yield from _book_at(assistant, contact, assistant.goal["title"], day, hour))


def _tell_subject(assistant: Assistant, mail: JsonObject) -> Script[Answer]:
    yield from ()
    return {"subject": mail["subject"]}


def _reply(assistant: Assistant, mail: JsonObject) -> Script[Answer]:
    text = yield from assistant.word("text")
    yield from assistant.ask("reply_mail", mail=mail["mail"], text=text)
    return None


def _forward(assistant: Assistant, mail: JsonObject) -> Script[Answer]:
    guest = yield from assistant.ask("find_contact", name=assistant.goal["guest"])
    if assistant.is_careful():
        yield from assistant.ask("forward_mail", mail=mail["mail"], contact=guest["contact"])
    return None


def _accept(assistant: Assistant, mail: JsonObject) -> Script[Answer]:
    shown = yield from assistant.ask("read_mail", mail=mail["mail"])
    wanted = understand(shown["text"])
    hour = assistant.decide(wanted.get("hour"), HOURS)
    day = assistant.decide(wanted.get("day"), DAYS)
    return (yield from _book_at(assistant, shown, shown["subject"], day, hour))


SELECT: Mapping[str, Callable[[Assistant], Script[JsonObject]]] = {
    "name": _name,
    "sender": _sender,
    "host": _host,
    "with": _with,
    "titled": _titled,
    "first": _first,
    "tomorrow": _tomorrow,
    "from": _from,
    "about": _about,
    "newest": _newest,
}
ACT: Mapping[str, Callable[[Assistant, JsonObject], Script[Answer]]] = {
    "when": _tell_when,
    "where": _tell_where,
    "cancel": _cancel,
    "move": _move,
    "room": _set_room,
    "invite": _invite,
    "rsvp": _rsvp,
    "rsvp_if_free": _rsvp_if_free,
    "cancel_or_decline": _cancel_or_decline,
    "cancel_series": _cancel_series,
    "move_series": _move_series,
    "phone": _tell_phone,
    "free": _tell_free,
    "write": _write,
    "book": _book,
    "book_first": _book_first,
    "book_agreed": _book_agreed,
    "subject": _tell_subject,
    "reply": _reply,
    "forward": _forward,
    "accept": _accept,
}
