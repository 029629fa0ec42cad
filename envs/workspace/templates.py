"""The task templates of the workspace: pairs of selector and effect, and the manner in which the task is told.

They know neither the agent nor the reward. A held-out template is a combination never trained on, of parts that are.
"""

from __future__ import annotations

from agentgrpo.envs.workspace.contacts import BOOK, BOOK_AGREED, BOOK_FIRST, FREE, PHONE, WRITE
from agentgrpo.envs.workspace.mails import ACCEPT, FORWARD, REPLY, SUBJECT
from agentgrpo.envs.workspace.meetings import (
    CANCEL,
    CANCEL_OR_DECLINE,
    CANCEL_SERIES,
    INVITE,
    MOVE,
    MOVE_SERIES,
    ROOM,
    RSVP,
    RSVP_IF_FREE,
    WHEN,
    WHERE,
)
from agentgrpo.envs.workspace.parts import Effect, Manner, Selector, Template
from agentgrpo.envs.workspace.selectors import (
    ABOUT,
    FIRST,
    FROM,
    HOST,
    NAME,
    NEWEST,
    SENDER,
    TITLED,
    TOMORROW,
    WITH,
)


def _template(level: int, effect: Effect, selector: Selector, manner: Manner = "told") -> Template:
    assert effect.kind == selector.kind, (
        f"{effect.name} is done to a {effect.kind}, {selector.name} is a {selector.kind}"
    )
    return Template(level=level, effect=effect, selector=selector, manner=manner)


TRAIN_TEMPLATES = (
    _template(1, WHEN, WITH),
    _template(1, CANCEL, WITH),
    _template(1, MOVE, WITH),
    _template(1, FREE, NAME),
    _template(1, SUBJECT, FROM),
    _template(1, REPLY, FROM),
    _template(2, PHONE, NAME),
    _template(2, PHONE, SENDER),
    _template(2, WRITE, NAME),
    _template(2, WRITE, HOST),
    _template(2, WHERE, TITLED),
    _template(2, CANCEL, TITLED),
    _template(2, CANCEL, TOMORROW),
    _template(2, MOVE, FIRST),
    _template(2, ROOM, WITH),
    _template(2, INVITE, TITLED),
    _template(2, RSVP, TITLED),
    _template(2, REPLY, ABOUT),
    _template(2, FORWARD, NEWEST),
    _template(2, BOOK, NAME),
    _template(3, BOOK_FIRST, NAME),
    _template(3, CANCEL_OR_DECLINE, WITH),
    _template(3, CANCEL_SERIES, TITLED),
    _template(3, MOVE_SERIES, TITLED),
    _template(3, RSVP_IF_FREE, TITLED),
    _template(3, ACCEPT, FROM),
    _template(3, ACCEPT, FROM, "closed"),
    _template(3, WHEN, WITH, "closed"),
    _template(3, MOVE, WITH, "asked"),
    _template(3, REPLY, FROM, "asked"),
    _template(3, BOOK, NAME, "asked"),
    _template(3, BOOK_AGREED, NAME, "agreed"),
    _template(3, MOVE, TITLED, "changed"),
    _template(3, ROOM, WITH, "changed"),
)
HELDOUT_TEMPLATES = (
    _template(2, WHEN, TOMORROW),
    _template(2, WHERE, WITH),
    _template(2, CANCEL, FIRST),
    _template(2, ROOM, TITLED),
    _template(2, FORWARD, FROM),
    _template(2, PHONE, HOST),
    _template(2, BOOK, SENDER),
    _template(3, BOOK_FIRST, SENDER),
    _template(3, ACCEPT, NEWEST, "closed"),
    _template(3, REPLY, ABOUT, "asked"),
    _template(3, BOOK_AGREED, SENDER, "agreed"),
    _template(3, MOVE, FIRST, "changed"),
)
TEMPLATES = {template.name: template for template in TRAIN_TEMPLATES + HELDOUT_TEMPLATES}
