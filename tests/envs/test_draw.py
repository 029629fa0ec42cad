from __future__ import annotations

import random
from dataclasses import dataclass

from agentgrpo.envs.draw import Draw
from agentgrpo.types import JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class Dig:
    """A template with something to ask for in worlds of odd number only."""

    name: str
    level: int
    tools: frozenset[str] = frozenset({"dig"})

    def sample(self, world: int, rng: random.Random) -> JsonObject | None:
        return {"goal": {"depth": world}, "instruction": f"Dig {rng.randrange(9)}"} if world % 2 else None

    def solve(self, app: object, world: int, goal: JsonObject) -> None:
        raise AssertionError("drawing rows solves nothing")


OLD, OLDER, NEW = Dig(name="old", level=1), Dig(name="older", level=2), Dig(name="new", level=2)
DRAW = Draw(
    plan={
        "train": ((OLD, OLDER), {1: 3, 2: 1}),
        "heldout": ((OLD, OLDER), {1: 1, 2: 1}),
        "heldout_templates": ((NEW,), {2: 1}),
    },
    make_world=lambda seed: seed,
    load_world=lambda app, world: None,
    heldout=1000,
    seeds=10,
)


def test_templates_take_turns_and_worlds_without_a_task_are_passed_over() -> None:
    rows = DRAW.rows("train")
    assert [row["task_id"] for row in rows] == ["train-old-000", "train-older-000", "train-old-001", "train-old-002"]
    assert [row["seed"] for row in rows] == [1, 11, 3, 5]
    assert [row["goal"]["depth"] for row in rows] == [1, 11, 3, 5]
    assert [row["level"] for row in rows] == [1, 2, 1, 1]


def test_heldout_rows_come_from_heldout_worlds() -> None:
    assert [row["seed"] for row in DRAW.rows("heldout")] == [1001, 1011]
    assert [(row["template"], row["seed"]) for row in DRAW.rows("heldout_templates")] == [("new", 1021)]


def test_what_is_shipped_names_templates_and_their_tools_and_is_drawn_once() -> None:
    shipped = DRAW.ship("pit")
    assert shipped.templates == {"old": {"dig"}, "older": {"dig"}, "new": {"dig"}}
    assert shipped.make("train") is shipped.make("train")
    assert shipped.make("train") == DRAW.rows("train")
