"""The selectors of the workspace: the ways in which a task says which contact, meeting or mail it is about.

They do not know what is to be done with it.
"""

from __future__ import annotations

from collections import Counter

from agentgrpo.envs.workspace.parts import Choice, Selector
from agentgrpo.envs.workspace.world import Meeting, World
from agentgrpo.tools.workspace import DAYS


def _named(world: World) -> list[Choice]:
    return [Choice(target=contact, words={"name": contact.name}) for contact in world.others]


def _senders(world: World) -> list[Choice]:
    people = {contact.id: contact for contact in world.others}
    return [Choice(target=people[mail.sender], words={"about": mail.subject}) for mail in world.inbox]


def _hosts(world: World) -> list[Choice]:
    people = {contact.id: contact for contact in world.others}
    return [
        Choice(target=people[meeting.organiser], words={"called": meeting.title, "on": meeting.day})
        for meeting in world.coming(world.me)
        if meeting.organiser in people
    ]


def _with(world: World) -> list[Choice]:
    found = [(contact, world.coming(world.me, contact.id)) for contact in world.others]
    return [Choice(target=meetings[0], words={"name": contact.name}) for contact, meetings in found if meetings]


def _titled(world: World) -> list[Choice]:
    return [
        Choice(target=meeting, words={"called": meeting.title, "on": meeting.day}) for meeting in world.coming(world.me)
    ]


def _first_on(world: World, day: str) -> Meeting | None:
    """Return my first meeting of a day, unless two begin at that hour."""
    meetings = [meeting for meeting in world.coming(world.me) if meeting.day == day]
    hours = Counter(meeting.hour for meeting in meetings)
    return meetings[0] if meetings and hours[meetings[0].hour] == 1 else None


def _first(world: World) -> list[Choice]:
    found = [(day, _first_on(world, day)) for day in world.days]
    return [Choice(target=meeting, words={"on": day}) for day, meeting in found if meeting is not None]


def _tomorrow(world: World) -> list[Choice]:
    meeting = _first_on(world, DAYS[DAYS.index(world.today) + 1])
    return [] if meeting is None else [Choice(target=meeting, words={})]


def _from(world: World) -> list[Choice]:
    names = {contact.id: contact.name for contact in world.others}
    newest = {mail.sender: mail for mail in reversed(world.inbox)}
    return [Choice(target=mail, words={"name": names[sender]}) for sender, mail in newest.items()]


def _about(world: World) -> list[Choice]:
    return [Choice(target=mail, words={"about": mail.subject}) for mail in world.inbox]


def _newest(world: World) -> list[Choice]:
    return [Choice(target=world.inbox[0], words={})]


NAME = Selector(name="name", kind="contact", phrase="{name}", find=_named, tools=("find_contact",))
SENDER = Selector(
    name="sender", kind="contact", phrase="whoever wrote about {about}", find=_senders, tools=("list_mails",)
)
HOST = Selector(
    name="host",
    kind="contact",
    phrase="the organiser of the {called} on {on}",
    find=_hosts,
    tools=("list_meetings", "get_meeting"),
)
WITH = Selector(
    name="with",
    kind="meeting",
    phrase="my next meeting with {name}",
    find=_with,
    tools=("find_contact", "find_meeting"),
)
TITLED = Selector(name="titled", kind="meeting", phrase="the {called} on {on}", find=_titled, tools=("list_meetings",))
FIRST = Selector(name="first", kind="meeting", phrase="my first meeting on {on}", find=_first, tools=("list_meetings",))
TOMORROW = Selector(
    name="tomorrow",
    kind="meeting",
    phrase="my first meeting tomorrow",
    find=_tomorrow,
    tools=("today", "list_meetings"),
)
FROM = Selector(
    name="from", kind="mail", phrase="the newest mail of {name}", find=_from, tools=("find_contact", "find_mail")
)
ABOUT = Selector(name="about", kind="mail", phrase="the mail about {about}", find=_about, tools=("list_mails",))
NEWEST = Selector(name="newest", kind="mail", phrase="the newest mail", find=_newest, tools=("list_mails",))
