from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from agentgrpo.errors import ToolError
from agentgrpo.tools.workspace import DAYS, HOURS, WorkspaceApp
from agentgrpo.types import Json

# id: title, organiser, day, hour, room, series, guests; C1 is the owner, and it is Tuesday.
MEETINGS: dict[str, tuple[str, str, str, int, str, str, dict[str, str]]] = {
    "M1": ("budget review", "C1", "Tue", 10, "Oslo", "", {"C2": "yes"}),
    "M2": ("sales demo", "C2", "Wed", 11, "Rome", "", {"C1": "none"}),
    "M3": ("press sync", "C1", "Mon", 9, "Oslo", "", {"C2": "yes"}),
    "M4": ("brand forum", "C2", "Wed", 9, "Oslo", "", {"C3": "yes"}),
    "M5": ("legal sync", "C1", "Mon", 15, "Rome", "S1", {"C3": "yes"}),
    "M6": ("legal sync", "C1", "Wed", 15, "Rome", "S1", {"C3": "yes"}),
    "M7": ("legal sync", "C1", "Thu", 15, "Rome", "S1", {"C3": "yes"}),
    "M8": ("market demo", "C3", "Thu", 12, "Lima", "", {"C1": "no"}),
}
MAILS = [  # oldest first
    ("N1", "N1", "C2", "C1", "budget plan", "ready"),
    ("N2", "N2", "C3", "C1", "design forum", "Can we meet on Wed at 9?"),
    ("N3", "N1", "C1", "C2", "budget plan", "thanks"),
    ("N4", "N4", "C3", "C1", "travel summit", "later"),
    ("N5", "N5", "C2", "C3", "hiring sync", "soon"),
]


@pytest.fixture
def app() -> WorkspaceApp:
    app = WorkspaceApp()
    app.insert("office", [{"id": "me", "value": "C1"}, {"id": "today", "value": "Tue"}])
    people = {"C1": "Ada Stone", "C2": "Bob Fox", "C3": "Eva Hill"}
    app.insert("contacts", [{"id": i, "name": name, "phone": 2000 + int(i[1])} for i, name in people.items()])
    app.insert("rooms", [{"id": room, "seats": seats} for room, seats in (("Oslo", 2), ("Rome", 4), ("Lima", 2))])
    for meeting, (title, organiser, day, hour, room, series, guests) in MEETINGS.items():
        when = {"day": day, "hour": hour, "room": room, "series": series}
        app.insert("meetings", [{"id": meeting, "title": title, "organiser": organiser} | when])
        rows = [{"id": f"{meeting}-{c}", "meeting": meeting, "contact": c, "reply": r} for c, r in guests.items()]
        app.insert("guests", rows)
    names = ("id", "thread", "sender", "receiver", "subject", "text")
    app.insert("mails", [dict(zip(names, mail, strict=True)) | {"number": n} for n, mail in enumerate(MAILS, 1)])
    return WorkspaceApp(app.snapshot())


def refused(app: WorkspaceApp, action: Callable[[], Json]) -> str:
    """Return why an action was refused, once it is sure that it changed nothing."""
    with pytest.raises(ToolError) as error:
        action()
    assert app.state_diff() == []
    assert "\n" not in str(error.value)
    return str(error.value)


def changed(app: WorkspaceApp) -> dict[str, Any]:
    return {operation["path"]: operation.get("value") for operation in app.state_diff()}


def test_the_three_groups_name_every_function() -> None:
    named = {*WorkspaceApp.contact_tools, *WorkspaceApp.calendar_tools, *WorkspaceApp.mail_tools}
    public = {name for name in vars(WorkspaceApp) if not name.startswith("_") and name != "schema"}
    assert named == public - {"contact_tools", "calendar_tools", "mail_tools"}


def test_the_day_is_the_worlds(app: WorkspaceApp) -> None:
    assert app.today() == {"day": "Tue"}


def test_contacts_are_found_whatever_the_case(app: WorkspaceApp) -> None:
    assert app.find_contact(" bob fox ") == {"contact": "C2"}
    assert app.get_contact("C2") == {"contact": "C2", "name": "Bob Fox", "phone": 2002}
    assert "nobody is called 'Zoe'" in refused(app, lambda: app.find_contact("Zoe"))
    assert "find_contact" in refused(app, lambda: app.get_contact("C9"))


def test_the_next_meeting_is_the_first_from_today_that_both_attend(app: WorkspaceApp) -> None:
    assert app.find_meeting("C2") == {"meeting": "M1", "day": "Tue", "hour": 10}
    assert app.find_meeting("C3") == {"meeting": "M6", "day": "Wed", "hour": 15}
    app.cancel_series("M6")
    with pytest.raises(ToolError, match="no coming meeting with C3"):  # M8 was declined
        app.find_meeting("C3")


def test_a_day_lists_my_meetings_in_order_without_those_declined(app: WorkspaceApp) -> None:
    assert app.list_meetings("Wed") == [
        {"meeting": "M2", "title": "sales demo", "hour": 11},
        {"meeting": "M6", "title": "legal sync", "hour": 15},
    ]
    assert [row["meeting"] for row in app.list_meetings("Thu")] == ["M7"]
    assert ", ".join(DAYS) in refused(app, lambda: app.list_meetings("Sunday"))


def test_a_meeting_is_shown_whole(app: WorkspaceApp) -> None:
    shown = {"meeting": "M1", "title": "budget review", "day": "Tue", "hour": 10, "room": "Oslo", "organiser": "C1"}
    assert app.get_meeting("M1") == shown | {"guests": ["C2"]}
    assert app.get_meeting("M6")["series"] == "S1"


def test_free_hours_are_those_when_both_are_free(app: WorkspaceApp) -> None:
    assert app.free_hours("C2", "Wed") == [hour for hour in HOURS if hour not in (9, 11, 15)]
    assert app.free_hours("C3", "Thu") == [hour for hour in HOURS if hour not in (12, 15)]


def test_free_rooms_are_those_without_a_meeting(app: WorkspaceApp) -> None:
    assert app.free_rooms("Tue", 10) == ["Lima", "Rome"]
    assert app.free_rooms("Fri", 9) == ["Lima", "Oslo", "Rome"]


@pytest.mark.parametrize("hour", [8, 17, -1, 10**30])
def test_hours_have_bounds(app: WorkspaceApp, hour: int) -> None:
    for action in (
        lambda: app.free_rooms("Tue", hour),
        lambda: app.move_meeting("M1", "Fri", hour),
        lambda: app.move_series("M6", hour),
        lambda: app.book_meeting("C2", "press demo", "Fri", hour, "Oslo"),
    ):
        assert "from 9 to 16" in refused(app, action)


def test_booking_adds_a_meeting_of_mine_and_its_guest(app: WorkspaceApp) -> None:
    assert app.book_meeting("C2", " press demo ", "Fri", 9, "Oslo")["meeting"] == "M901"
    when = {"day": "Fri", "hour": 9, "room": "Oslo", "series": ""}
    assert changed(app) == {
        "/meetings/M901": {"title": "press demo", "organiser": "C1"} | when,
        "/guests/M901-C2": {"meeting": "M901", "contact": "C2", "reply": "none"},
    }
    assert app.book_meeting("C3", "press sync", "Fri", 9, "Rome")["meeting"] == "M902"


def test_no_room_is_booked_twice(app: WorkspaceApp) -> None:
    taken = "Oslo is taken on Tue at 10"
    assert taken in refused(app, lambda: app.book_meeting("C3", "press demo", "Tue", 10, "Oslo"))
    app.book_meeting("C2", "press demo", "Tue", 12, "Oslo")
    app.state_diff()
    assert taken in refused(app, lambda: app.move_meeting("M901", "Tue", 10))
    app.set_room("M901", "Lima")
    app.move_meeting("M901", "Tue", 10)
    app.state_diff()
    assert taken in refused(app, lambda: app.set_room("M901", "Oslo"))


def test_a_room_has_seats(app: WorkspaceApp) -> None:
    assert "Oslo has 2 seats, 3 are needed" in refused(app, lambda: app.invite("M1", "C3"))
    app.set_room("M1", "Rome")
    assert app.invite("M1", "C3") == {"meeting": "M1", "guests": ["C2", "C3"]}
    app.state_diff()
    assert "seats" in refused(app, lambda: app.set_room("M1", "Lima"))
    assert "there are Lima, Oslo, Rome" in refused(app, lambda: app.set_room("M1", "Mars"))


def test_only_the_organiser_changes_a_meeting(app: WorkspaceApp) -> None:
    for action in (
        lambda: app.move_meeting("M2", "Fri", 9),
        lambda: app.set_room("M2", "Oslo"),
        lambda: app.invite("M2", "C3"),
        lambda: app.cancel_meeting("M2"),
        lambda: app.move_series("M2", 9),
        lambda: app.cancel_series("M2"),
    ):
        assert "M2 is C2's: only the organiser may change it" in refused(app, action)


def test_what_is_past_stays(app: WorkspaceApp) -> None:
    for action in (
        lambda: app.move_meeting("M3", "Fri", 9),
        lambda: app.cancel_meeting("M3"),
        lambda: app.move_meeting("M1", "Mon", 12),
        lambda: app.book_meeting("C2", "press demo", "Mon", 12, "Rome"),
    ):
        assert "Mon is past, today is Tue" in refused(app, action)


def test_a_meeting_moves_to_another_time(app: WorkspaceApp) -> None:
    app.move_meeting("M1", "Thu", 9)
    assert changed(app) == {"/meetings/M1/day": "Thu", "/meetings/M1/hour": 9}
    assert "already" in refused(app, lambda: app.move_meeting("M1", "Thu", 9))


def test_one_meeting_of_a_series_changes_alone(app: WorkspaceApp) -> None:
    app.move_meeting("M6", "Wed", 16)
    app.cancel_meeting("M7")
    assert changed(app) == {"/meetings/M6/hour": 16, "/meetings/M7": None, "/guests/M7-C3": None}


def test_a_series_changes_as_a_whole_but_for_what_is_past(app: WorkspaceApp) -> None:
    assert app.move_series("M7", 16)["moved"] == 2
    assert changed(app) == {"/meetings/M6/hour": 16, "/meetings/M7/hour": 16}
    assert "already" in refused(app, lambda: app.move_series("M6", 16))
    assert app.cancel_series("M6") == {"meeting": "M6", "cancelled": 2}
    assert set(changed(app)) == {"/meetings/M6", "/guests/M6-C3", "/meetings/M7", "/guests/M7-C3"}
    assert "M5" in app.state()["meetings"]


def test_a_series_moves_whole_or_not_at_all(app: WorkspaceApp) -> None:
    app.book_meeting("C2", "press demo", "Thu", 13, "Rome")
    app.state_diff()
    assert "Rome is taken on Thu at 13" in refused(app, lambda: app.move_series("M6", 13))
    assert "no series" in refused(app, lambda: app.cancel_series("M1"))


def test_an_invitation_is_answered_by_who_has_it(app: WorkspaceApp) -> None:
    app.answer_invite("M2", "yes")
    assert changed(app) == {"/guests/M2-C1/reply": "yes"}
    assert "already" in refused(app, lambda: app.answer_invite("M2", "yes"))
    assert "yes or no" in refused(app, lambda: app.answer_invite("M2", "maybe"))
    assert "not invited" in refused(app, lambda: app.answer_invite("M4", "yes"))


def test_inviting_oneself_or_again_is_refused(app: WorkspaceApp) -> None:
    assert "C1 is you" in refused(app, lambda: app.invite("M1", "C1"))
    assert "invited to M1 already" in refused(app, lambda: app.invite("M1", "C2"))


def test_mail_is_listed_newest_first_and_found_by_sender(app: WorkspaceApp) -> None:
    assert [row["mail"] for row in app.list_mails()] == ["N4", "N2", "N1"]
    assert app.find_mail("C3") == {"mail": "N4", "subject": "travel summit"}
    read = {"mail": "N2", "contact": "C3", "subject": "design forum", "text": "Can we meet on Wed at 9?"}
    assert app.read_mail("N2") == read
    assert "no mail from C1" in refused(app, lambda: app.find_mail("C1"))


def test_the_mail_of_others_is_not_mine_to_read(app: WorkspaceApp) -> None:
    for action in (
        lambda: app.read_mail("N5"),
        lambda: app.forward_mail("N5", "C2"),
        lambda: app.reply_mail("N5", "x"),
    ):
        assert "no mail 'N5'" in refused(app, action)


def test_a_reply_goes_to_the_thread_and_to_its_sender(app: WorkspaceApp) -> None:
    assert app.reply_mail("N4", "gladly") == {"mail": "N901", "thread": "N4"}
    row = {"number": 901, "thread": "N4", "sender": "C1", "receiver": "C3", "subject": "travel summit"}
    assert changed(app) == {"/mails/N901": row | {"text": "gladly"}}


def test_only_the_newest_mail_of_a_thread_is_answered_and_never_ones_own(app: WorkspaceApp) -> None:
    assert "that is N3" in refused(app, lambda: app.reply_mail("N1", "gladly"))
    assert "your own" in refused(app, lambda: app.reply_mail("N3", "gladly"))
    assert "your own" in refused(app, lambda: app.forward_mail("N3", "C3"))


def test_a_subject_with_a_thread_is_answered_there(app: WorkspaceApp) -> None:
    assert "thread N1 with C2" in refused(app, lambda: app.send_mail("C2", "Budget plan", "later"))
    assert app.send_mail("C3", "budget plan", "later") == {"mail": "N901", "thread": "N901"}  # another contact


def test_a_mail_is_forwarded_to_somebody_who_did_not_write_it(app: WorkspaceApp) -> None:
    assert "N4 is from C3" in refused(app, lambda: app.forward_mail("N4", "C3"))
    app.forward_mail("N4", "C2")
    row = {"number": 901, "thread": "N901", "sender": "C1", "receiver": "C2", "subject": "travel summit"}
    assert changed(app) == {"/mails/N901": row | {"text": "later"}}


@pytest.mark.parametrize("text", ["", "  ", "x" * 201, "a\nb", "\ud800"])
def test_texts_are_printable_and_short(app: WorkspaceApp, text: str) -> None:
    for action in (
        lambda: app.reply_mail("N4", text),
        lambda: app.send_mail("C2", text, "thanks"),
        lambda: app.book_meeting("C2", text, "Fri", 9, "Oslo"),
    ):
        assert "printable" in refused(app, action)
