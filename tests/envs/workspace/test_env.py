from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentgrpo.config.run import load_config
from agentgrpo.envs.workspace.env import CALENDAR_TOOLS, MAIL_TOOLS, Workspace, normalize
from agentgrpo.envs.workspace.templates import TEMPLATES
from agentgrpo.envs.workspace.world import TEXTS, make_world
from agentgrpo.errors import EnvError
from agentgrpo.registry import resolve_env
from agentgrpo.tools.appstate import patch
from agentgrpo.tools.workspace import DAYS, HOURS, REPLIES
from agentgrpo.types import JsonObject
from tests.envs.playing import NOTHING, do, finish, row_of, solve, start
from tests.envs.workspace.playing import ONE_OF_EACH


def test_a_side_effect_costs_and_voids_the_outcome(office: Workspace) -> None:
    row = row_of(Workspace, "cancel_with")
    start(office, row)
    contact = do(office, "find_contact", name=row["goal"]["name"])["contact"]
    do(office, "cancel_meeting", meeting=do(office, "find_meeting", contact=contact)["meeting"])
    assert finish(office) == (1.0, {"outcome": 1.0, "side_effects": 0.0})
    do(office, "send_mail", contact=contact, subject="design demo", text="thanks")
    assert finish(office) == (-0.5, {"outcome": 0.0, "side_effects": -0.5})


def test_looking_is_no_side_effect_and_a_refused_call_changes_nothing(office: Workspace) -> None:
    start(office, row_of(Workspace, "cancel_with"))
    before = office.state_hash()
    do(office, "list_mails")
    assert do(office, "cancel_meeting", meeting="M0")["error"]["type"] == "tool_error"
    assert office.state_hash() == before
    assert finish(office) == (0.0, NOTHING)


def answer_of(env: Workspace, row: JsonObject) -> JsonObject:
    """Solve a question up to the answer and return its fields."""
    start(env, row)
    script = env.oracle()
    action = next(script)
    while action["tool_calls"][0]["name"] != "answer":
        action = script.send(tuple(env.step(json.dumps(action))[4]["messages"]))
    return dict(action["tool_calls"][0]["arguments"])


@pytest.mark.parametrize("name", ["when_with", "free_name", "subject_from", "phone_name", "where_titled"])
def test_an_answer_is_checked_field_by_field(office: Workspace, name: str) -> None:
    wanted = answer_of(office, row_of(Workspace, name))
    for field in wanted:
        wrong = wanted | {field: 3 if isinstance(wanted[field], int) else "else"}
        answer_of(office, row_of(Workspace, name))
        _, reward, terminated, _, info = office.step(json.dumps(office.call("answer", **wrong)))
        assert (reward, terminated, info["reward_terms"]) == (0.0, True, NOTHING)
    loud = {key: f" {value.upper()} " if isinstance(value, str) else str(value) for key, value in wanted.items()}
    for right in (wanted, loud):
        answer_of(office, row_of(Workspace, name))
        assert office.step(json.dumps(office.call("answer", **right)))[1:3] == (1.0, True)


@pytest.mark.parametrize("name", ["when_with", "free_name", "subject_from", "phone_name", "where_titled"])
def test_a_field_nobody_asked_for_makes_an_answer_wrong_unless_it_repeats_the_question(
    office: Workspace, name: str
) -> None:
    row = row_of(Workspace, name)
    wanted = answer_of(office, row)
    made_up = {"day": "Mon", "hour": 99, "room": "Oslo", "phone": 1, "subject": "none"}
    for field in made_up.keys() - wanted.keys():
        answer_of(office, row)
        repeated = row["goal"].get(field)
        given = made_up[field] if repeated is None else next(day for day in DAYS if day != repeated)
        assert office.step(json.dumps(office.call("answer", **wanted, **{field: given})))[1:3] == (0.0, True)
        if repeated is not None:
            answer_of(office, row)
            assert office.step(json.dumps(office.call("answer", **wanted, **{field: repeated})))[1:3] == (1.0, True)


def test_an_answer_needs_a_field_and_is_given_once(office: Workspace) -> None:
    wanted = answer_of(office, row_of(Workspace, "when_with"))
    assert "needs one of day" in do(office, "answer")["error"]["message"]
    wrong, right = ({"id": "a", "name": "answer", "arguments": given} for given in (wanted | {"hour": 3}, wanted))
    _, reward, terminated, _, info = office.step(json.dumps({"content": "", "tool_calls": [wrong, right]}))
    assert (reward, terminated) == (0.0, True)
    assert "the episode was over before this call" in info["messages"][1]["content"]


def test_normalize_drops_case_and_space() -> None:
    assert normalize("  Budget  Review ") == "budget review"
    assert normalize(11) == "11"


def test_a_meeting_counts_as_the_same_after_a_wrong_one_was_booked_and_cancelled(office: Workspace) -> None:
    row = row_of(Workspace, "book_name")
    start(office, row)
    contact = do(office, "find_contact", name=row["goal"]["name"])["contact"]
    wanted = {key: row["goal"][key] for key in ("title", "day", "hour", "room")}
    other = next(day for day in DAYS[::-1] if day != wanted["day"])
    free = do(office, "free_rooms", day=other, hour=16)[0]
    do(office, "book_meeting", contact=contact, title=wanted["title"], day=other, hour=16, room=free)
    assert do(office, "book_meeting", contact=contact, **wanted)["meeting"] == "M902"
    do(office, "cancel_meeting", meeting="M901")
    assert finish(office) == (1.0, {"outcome": 1.0, "side_effects": 0.0})


def test_progress_is_a_share_of_what_was_wanted_and_no_reward_for_more() -> None:
    env = Workspace(progress=0.2)
    row = row_of(Workspace, "move_series_titled")
    start(env, row)
    target = TEMPLATES[row["template"]].target(make_world(row["seed"]), row["goal"])
    do(env, "move_meeting", meeting=target.id, day=target.day, hour=row["goal"]["hour"])
    checks = len(make_world(row["seed"]).coming()) and sum(
        m.series == target.series for m in make_world(row["seed"]).coming()
    )
    assert env.score() == NOTHING | {"progress": pytest.approx(0.2 / checks)}
    do(env, "answer_invite", meeting=target.id, reply="no")  # refused
    do(env, "move_series", meeting=target.id, hour=row["goal"]["hour"])
    assert env.score() == NOTHING | {"progress": pytest.approx(0.2)}  # all that was wanted, but the end
    assert finish(env) == (1.0, {"outcome": 1.0, "side_effects": 0.0, "progress": 0.0})
    do(env, "cancel_meeting", meeting=target.id)
    assert finish(env) == (-0.5, {"outcome": 0.0, "side_effects": -0.5, "progress": 0.0})
    env.close()


def test_progress_counts_the_fields_of_an_answer() -> None:
    env = Workspace(progress=0.2)
    wanted = answer_of(env, row_of(Workspace, "when_with"))
    reward = env.step(json.dumps(env.call("answer", **wanted | {"hour": 3})))[1]
    assert reward == pytest.approx(0.1)
    for row in ONE_OF_EACH:
        assert solve(env, row)[0] == 1.0
    env.close()


CALLS = st.lists(
    st.sampled_from(
        [
            name
            for name in (*CALENDAR_TOOLS, *MAIL_TOOLS)
            if not name.startswith(("find_", "list_", "get_", "free_", "read_"))
        ]
    ),
    max_size=10,
)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(ONE_OF_EACH), CALLS, st.randoms(use_true_random=False))
def test_hash_and_diff_stay_exact_and_rules_hold(row: JsonObject, calls: list[str], rng: random.Random) -> None:
    env = Workspace()
    start(env, row)
    before = env.state()
    for name in calls:
        state = env.state()
        values = {
            "contact": rng.choice(sorted(state["contacts"])),
            "meeting": rng.choice(sorted(state["meetings"])),
            "mail": rng.choice(sorted(state["mails"])),
            "room": rng.choice(sorted(state["rooms"])),
            "day": rng.choice(DAYS),
            "hour": rng.choice(HOURS),
            "reply": rng.choice(REPLIES),
            "title": "brand demo",
            "subject": "sales demo",
            "text": rng.choice(TEXTS),
        }
        parameters = env._all_tools[name].parameters["properties"]
        env.step(json.dumps(env.call(name, **{key: values[key] for key in parameters})))
        assert env.state_hash() == env.app.content_hash()
        slots = [(m["room"], m["day"], m["hour"]) for m in env.state()["meetings"].values()]
        assert len(slots) == len(set(slots))
    fresh = Workspace()
    fresh.restore(env.snapshot())
    assert fresh.state_hash() == env.state_hash()
    assert patch(before, env.state()) == patch(before, fresh.state())


def test_the_example_trains_the_easiest_level() -> None:
    config = load_config(Path(__file__).parents[3] / "examples" / "workspace_tiny.toml")
    source = resolve_env(config.env, **config.env_args)
    assert source.isolation == "inline"
    assert {row["level"] for row in source.tasks("train")} == {1}
    assert len(source.tasks("heldout")) >= 200
    env = source.make()
    info = env.reset(seed=1, options={"task": source.tasks("heldout")[0]})[1]
    assert [message["role"] for message in info["messages"]] == ["system", "user"]
    assert len(info["tools"]) <= 8
    env.close()


def test_what_cannot_work_is_said() -> None:
    with pytest.raises(EnvError, match="need the tool 'find_meeting'"):
        Workspace(templates=["cancel_with"], tools=["find_contact", "cancel_meeting"])
    with pytest.raises(EnvError, match=r"no tool 'find_meting'.*Did you mean 'find_meeting'"):
        Workspace(tools=["find_meting"])
    with pytest.raises(EnvError, match="progress is 1"):
        Workspace(progress=1.0)
