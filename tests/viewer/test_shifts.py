from __future__ import annotations

from typing import Any

from agentgrpo.store.rows import FacetRow
from agentgrpo.viewer.effects import Effect
from agentgrpo.viewer.shifts import shifts, suspects
from agentgrpo.viewer.steps import facet_columns


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


TOGETHER = [*BEFORE, row("tool", "get", successes=32)]  # called in the same episodes as "refund"
TOGETHER_AFTER = [
    row("stop", "answered", episodes=100, scored=100, successes=50),
    row("tool", "find", episodes=100, scored=100, successes=50),
    row("tool", "get", successes=2),
    row("tool", "refund", successes=2),
    row("family", "refund", successes=2),
]
READS = Effect(turns=30, changed=0), Effect(turns=30, changed=0)


def test_of_tools_called_together_the_one_that_no_longer_acts_comes_first() -> None:
    effects = {"get": READS, "refund": (Effect(turns=30, changed=30), Effect(turns=30, changed=0))}
    first, second, *_ = shifts(TOGETHER, TOGETHER_AFTER, effects)
    assert (first.facet, first.value, first.reason) == ("tool", "refund", "effect")
    assert (second.value, second.reason) in {("get", None), ("refund", None)}


def test_of_tools_called_together_the_one_that_fails_comes_first() -> None:
    after = [one for one in TOGETHER_AFTER if one.value != "refund"] + [row("tool", "refund", successes=2, errors=38)]
    first, *_ = shifts(TOGETHER, after, {"get": READS})
    assert (first.value, first.reason) == ("refund", "errors")


def test_a_tool_that_every_episode_calls_is_found_by_what_it_no_longer_does() -> None:
    before = [row("stop", "answered"), row("tool", "buy")]
    after = [row("stop", "answered", successes=0), row("tool", "buy", successes=0)]
    assert shifts(before, after) == []
    effects = {"buy": (Effect(turns=30, changed=30), Effect(turns=30, changed=0))}
    assert [(one.value, one.reason) for one in shifts(before, after, effects)] == [("buy", "effect")]


def test_a_tool_that_fails_less_is_no_reason_for_a_fall() -> None:
    before = [
        row("stop", "answered", episodes=100, scored=100, successes=80),
        row("tool", "search", successes=33, errors=20),
        row("family", "hard", successes=32),
    ]
    after = [
        row("stop", "answered", episodes=100, scored=100, successes=40),
        row("tool", "search", successes=33, errors=2),
        row("family", "hard", successes=2),
    ]
    first, *rest = shifts(before, after)
    assert (first.facet, first.value) == ("family", "hard")
    assert all(shift.reason is None for shift in [first, *rest])


def test_what_did_not_change_itself_is_no_line() -> None:
    after = [*TOGETHER_AFTER, row("tool", "send", successes=30)]
    assert "send" not in {one.value for one in shifts([*TOGETHER, row("tool", "send", successes=30)], after)}


def test_a_few_turns_are_no_reason() -> None:
    effects = {"refund": (Effect(turns=1, changed=1), Effect(turns=1, changed=0))}
    assert all(one.direct < 0.2 for one in shifts(TOGETHER, TOGETHER_AFTER, effects))


def test_tools_are_looked_at_whose_episodes_changed() -> None:
    assert suspects(TOGETHER, TOGETHER_AFTER) == ["get", "refund", "find"]
    assert suspects(TOGETHER, TOGETHER) == []
    assert suspects([], []) == []


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
