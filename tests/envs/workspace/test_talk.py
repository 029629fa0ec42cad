from __future__ import annotations

import json

from agentgrpo.envs.workspace.env import OFFERED, Workspace
from tests.envs.playing import do, finish, row_of, say, solve, start, words
from tests.envs.workspace.playing import offered


def test_a_fact_that_was_left_out_is_told_when_asked_for(office: Workspace) -> None:
    row = row_of(Workspace, "move_with_asked")
    start(office, row)
    assert str(row["goal"]["day"]) in str(say(office, "On which day?"))
    assert str(row["goal"]["hour"]) not in str(say(office, "On which day?"))
    both = str(say(office, "When?"))
    assert {str(row["goal"]["day"]), str(row["goal"]["hour"])} <= words([both])
    assert say(office, "I do not know what to do.") is None


def test_a_changed_mind_voids_what_was_asked_first(office: Workspace) -> None:
    row = row_of(Workspace, "room_with_changed")
    start(office, row)
    contact = do(office, "find_contact", name=row["goal"]["name"])["contact"]
    meeting = do(office, "find_meeting", contact=contact)["meeting"]
    do(office, "set_room", meeting=meeting, room=row["goal"]["room"])
    assert office.score()["outcome"] == 0.0
    new = row["goal"]["instead"]["room"]
    assert new in str(say(office, "done"))
    do(office, "set_room", meeting=meeting, room=new)
    assert office.score()["outcome"] == 0.0  # "done" was said before, and the user went on
    assert finish(office)[0] == 1.0


def test_the_user_agrees_to_one_hour_only(office: Workspace) -> None:
    row = row_of(Workspace, "book_agreed_name")
    start(office, row)
    contact = do(office, "find_contact", name=row["goal"]["name"])["contact"]
    hours = do(office, "free_hours", contact=contact, day=row["goal"]["day"])
    agreed = [hour for hour in hours if say(office, f"Is {hour} right?") == "Yes."]
    assert agreed == [row["goal"]["hour"]]


def test_in_plain_tasks_nobody_replies(office: Workspace) -> None:
    start(office, row_of(Workspace, "move_with"))
    assert say(office, "When?") is None


def test_calendar_and_mail_open_one_at_a_time(office: Workspace) -> None:
    row = row_of(Workspace, "accept_from_closed")
    info = office.reset(options={"task": row})[1]
    assert offered(info) == list(OFFERED["mail"])
    assert "unknown_tool" in json.dumps(do(office, "list_meetings", day="Fri"))
    info = office.step(json.dumps(office.call("open_calendar")))[4]
    assert offered(info) == list(OFFERED["calendar"])
    assert "unknown_tool" in json.dumps(do(office, "list_mails"))
    info = office.step(json.dumps(office.call("open_mail")))[4]
    assert offered(info) == list(OFFERED["mail"])
    assert offered(office.reset(options={"task": row_of(Workspace, "accept_from")})[1]) == list(OFFERED["both"])


def test_a_tool_that_appears_can_be_used_in_the_same_message(office: Workspace) -> None:
    start(office, row_of(Workspace, "when_with_closed"))
    calls = [("open_calendar", {}), ("list_meetings", {"day": "Fri"}), ("list_mails", {})]
    action = {"content": "", "tool_calls": [{"id": n, "name": n, "arguments": a} for n, a in calls]}
    messages = office.step(json.dumps(action))[4]["messages"]
    assert [message["is_error"] for message in messages] == [False, False, True]


def test_the_tools_of_a_snapshot_come_back(office: Workspace) -> None:
    start(office, row_of(Workspace, "accept_from_closed"))
    do(office, "open_calendar")
    saved = office.snapshot()
    start(office, row_of(Workspace, "accept_from"))
    office.restore(saved)
    assert list(office.tools) == list(OFFERED["calendar"])


def test_chosen_tools_are_all_there_is_besides_what_opens_the_rest() -> None:
    env = Workspace(templates=["when_with_closed"], tools=["find_contact", "find_meeting", "answer"])
    assert offered(env.reset(seed=0)[1]) == ["find_contact", "open_calendar", "answer"]
    assert solve(env, row_of(Workspace, "when_with_closed"))[0] == 1.0
    env.close()
