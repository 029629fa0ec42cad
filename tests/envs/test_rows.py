from __future__ import annotations

import pytest

from agentgrpo.envs.rows import ShippedRows
from agentgrpo.errors import TaskError
from agentgrpo.types import JsonObject

MADE: list[str] = []


def make(split: str) -> tuple[JsonObject, ...]:
    MADE.append(split)
    if split == "heldout_templates":
        return ({"template": "new", "level": 2},)
    return tuple({"template": name, "level": level} for name in ("old", "older") for level in (1, 3))


SHIPPED = ShippedRows(env="the pond", templates=dict.fromkeys(("old", "older", "new"), frozenset("x")), make=make)


def test_rows_are_chosen_by_template_and_level() -> None:
    assert len(SHIPPED.choose("train")) == 4
    assert SHIPPED.choose("train", templates=["old"]) == (
        {"template": "old", "level": 1},
        {"template": "old", "level": 3},
    )
    assert SHIPPED.choose("heldout", templates=["older"], levels=[3]) == ({"template": "older", "level": 3},)


def test_one_list_of_names_serves_all_splits() -> None:
    assert [row["template"] for row in SHIPPED.choose("heldout_templates", templates=["old", "new"])] == ["new"]
    assert SHIPPED.choose("heldout_templates", templates=["old"]) == ()
    assert SHIPPED.choose("heldout", levels=[2]) == ()


def test_a_choice_is_made_once() -> None:
    SHIPPED.choose("train", templates=["older"], levels=[1])
    MADE.clear()
    assert SHIPPED.choose("train", templates=("older",), levels=(1,)) == ({"template": "older", "level": 1},)
    assert MADE == []


def test_what_does_not_exist_is_said() -> None:
    with pytest.raises(TaskError, match=r"the pond has no split 'held-out'.*Did you mean 'heldout'"):
        SHIPPED.choose("held-out")
    with pytest.raises(TaskError, match=r"the pond has no template 'olde'.*It has: old, older, new"):
        SHIPPED.choose("train", templates=["olde"])
    with pytest.raises(TaskError, match=r"levels=\(2,\)\. Levels are 1, 3\."):
        SHIPPED.choose("train", levels=[2])
