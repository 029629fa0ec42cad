from __future__ import annotations

from typing import Any

from agentgrpo.store.rows import FacetRow
from agentgrpo.viewer.steps import facet_columns, shifts


def row(facet: str, value: str, step: int = 1, **sums: Any) -> FacetRow:
    known = {"episodes": 40, "scored": 40, "reward": 0.0, "successes": 30, "calls": 40, "errors": 0}
    return FacetRow(phase="train", step=step, facet=facet, value=value, **(known | sums))


BEFORE = [
    row("stop", "answered", episodes=100, scored=100, successes=80),
    row("tool", "find", episodes=100, scored=100, successes=80),
    row("tool", "refund", successes=32),
    row("family", "refund", successes=32),
]


def test_what_broke_comes_first() -> None:
    after = [
        row("stop", "answered", episodes=100, scored=100, successes=50),
        row("tool", "find", episodes=100, scored=100, successes=50),
        row("tool", "refund", successes=2),
        row("family", "refund", successes=2),
    ]
    found = shifts(BEFORE, after)
    assert {(shift.facet, shift.value) for shift in found[:2]} == {("tool", "refund"), ("family", "refund")}
    assert all(shift.value != "find" for shift in found)


def test_a_tool_that_answers_with_errors_comes_first() -> None:
    after = [
        row("stop", "answered", episodes=100, scored=100, successes=80),
        row("tool", "find", episodes=100, scored=100, successes=80),
        row("tool", "refund", successes=30, errors=38),
    ]
    assert [(s.facet, s.value) for s in shifts(BEFORE[:3], after)] == [("tool", "refund")]


def test_nothing_stands_out_where_nothing_changed() -> None:
    assert shifts(BEFORE, BEFORE) == []
    assert shifts([], []) == []


def test_an_ending_that_was_not_there_before_stands_out() -> None:
    after = [
        row("stop", "answered", episodes=40, scored=40, successes=32),
        row("stop", "failed:tool", episodes=60, scored=0, successes=0),
    ]
    assert {shift.value for shift in shifts(BEFORE[:1], after)} == {"answered", "failed:tool"}


def test_facets_are_columns_the_most_frequent_first() -> None:
    rows = [row("tool", "b"), row("tool", "a", episodes=50), row("tool", "b", step=2)]
    (first, second) = facet_columns(rows)["tool"]
    assert (first["value"], first["steps"], first["episodes"]) == ("b", [1, 2], [40, 40])
    assert (second["value"], second["steps"], second["episodes"]) == ("a", [1], [50])
