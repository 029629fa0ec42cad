from __future__ import annotations

import json

from agentgrpo.envs.workspace.env import Workspace
from agentgrpo.envs.workspace.templates import HELDOUT_TEMPLATES, TEMPLATES, TRAIN_TEMPLATES
from agentgrpo.envs.workspace.world import (
    CONTACT_IDS,
    FIRST_NAMES,
    KINDS,
    LAST_NAMES,
    MAIL_IDS,
    MEETING_IDS,
    PHONES,
    ROOMS,
    SERIES_IDS,
    TEXTS,
    TOPICS,
    make_world,
)
from agentgrpo.tools.workspace import DAYS, HOURS, REPLIES
from tests.envs.playing import words
from tests.envs.workspace.playing import ROWS


def test_heldout_templates_combine_trained_parts_anew() -> None:
    for template in HELDOUT_TEMPLATES:
        assert template.selector in {trained.selector for trained in TRAIN_TEMPLATES}
        assert template.manner in {trained.manner for trained in TRAIN_TEMPLATES if trained.effect == template.effect}
        assert template.name not in {trained.name for trained in TRAIN_TEMPLATES}


def test_heldout_worlds_have_names_and_titles_of_their_own() -> None:
    worlds = {split: [make_world(row["seed"]) for row in rows[::3]] for split, rows in ROWS.items()}
    names = {split: {c.name for world in found for c in world.contacts} for split, found in worlds.items()}
    titles = {
        split: {m.title for world in found for m in world.meetings}
        | {m.subject for world in found for m in world.mails}
        for split, found in worlds.items()
    }
    for split, rows in ROWS.items():
        titles[split] |= {row["goal"][key] for row in rows for key in ("title", "subject") if key in row["goal"]}
    for known in (names, titles):
        assert not known["train"] & (known["heldout"] | known["heldout_templates"])


def test_instructions_hold_what_is_told_and_nothing_that_is_hidden() -> None:
    for rows in ROWS.values():
        for row in rows:
            assert len(json.dumps(row)) < 500
            template = TEMPLATES[row["template"]]
            for key, word in template.told(row["goal"]).items():
                assert str(word) in row["instruction"], (row, key)
            if template.manner in ("asked", "agreed"):
                hidden = {str(row["goal"][key]) for key in template.hidden}
                assert hidden and not hidden & words([row["instruction"]]), row


def test_inventory_has_no_word_with_two_meanings() -> None:
    pools: tuple[tuple[object, ...], ...] = (
        *(FIRST_NAMES, LAST_NAMES, TOPICS, KINDS, ROOMS, TEXTS, DAYS, REPLIES),
        *(CONTACT_IDS, MEETING_IDS, MAIL_IDS, SERIES_IDS, PHONES, tuple(HOURS)),
    )
    everything = [str(word) for pool in pools for word in pool]
    assert len(everything) == len(set(everything))


def test_no_room_and_nobody_is_booked_twice_in_a_world_but_for_invitations() -> None:
    for row in ROWS["train"][:500]:
        meetings = make_world(row["seed"]).meetings
        rooms = [(m.slot, m.room) for m in meetings]
        people = [
            (m.slot, person) for m in meetings for person in m.attended if ("none") not in dict(m.guests).values()
        ]
        assert len(rooms) == len(set(rooms))
        assert len(people) == len(set(people))


def test_templates_and_levels_choose_rows() -> None:
    rows = Workspace.tasks("train", templates=["move_with", "accept_from"], levels=[3])
    assert {row["template"] for row in rows} == {"accept_from"}
    assert {row["level"] for row in Workspace.tasks("heldout", levels=[1])} == {1}
