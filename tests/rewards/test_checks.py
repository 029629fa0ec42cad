from __future__ import annotations

import pytest

from agentgrpo.errors import EnvError
from agentgrpo.rewards import Check, check, check_state, false_completion, outcome, progress

STATE = {"orders": {"o1": {"status": "cancelled"}, "o2": {"status": "open"}}}


def made(*passed: bool) -> tuple[Check, ...]:
    return tuple(Check(name=str(number), passed=is_passed) for number, is_passed in enumerate(passed))


def test_a_state_is_checked_place_by_place() -> None:
    checks = check_state(STATE, {"/orders/o1/status": "cancelled", "/orders/o2/status": "sent", "/orders/o3": None})
    assert [one.passed for one in checks] == [True, False, True]
    assert (checks[1].name, checks[1].expected, checks[1].actual) == ("/orders/o2/status", "sent", "open")


def test_the_outcome_is_all_or_nothing() -> None:
    assert outcome(made(True, True)) == 1.0
    assert outcome(made(True, False)) == 0.0
    assert outcome(made(True, True), is_clean=False) == 0.0
    assert outcome(check("a", actual=1, expected=1) for _ in range(2)) == 1.0


def test_an_outcome_without_goals_is_refused() -> None:
    with pytest.raises(EnvError, match="doing nothing would succeed"):
        outcome([])


@pytest.mark.parametrize(
    ("start", "now", "share"),
    [
        ((False, False), (False, False), 0.0),
        ((False, False), (True, False), 0.5),
        ((False, False), (True, True), 1.0),
        ((True, False, False), (True, False, False), 0.0),  # what held from the start earns nothing
        ((True, False, False), (True, True, False), 0.5),
        ((True, False, False), (False, True, False), 0.0),  # and costs as much when it is broken
        ((True, False), (False, False), 0.0),
        ((True, True), (True, True), 0.0),
    ],
)
def test_progress_counts_goals_that_were_open(start: tuple[bool, ...], now: tuple[bool, ...], share: float) -> None:
    assert progress(made(*now), made(*start)) == share


def test_progress_needs_the_same_checks() -> None:
    with pytest.raises(EnvError, match="each name once"):
        progress(made(True), made(True, False))
    with pytest.raises(EnvError, match="each name once"):
        progress((*made(True), *made(True)), made(True))


@pytest.mark.parametrize(
    ("reached", "answer", "claims"),
    [
        (1.0, "done", 0.0),
        (0.0, "done", 1.0),
        (0.5, "done", 1.0),
        (0.0, None, 0.0),
        (0.0, " ", 0.0),
        (0.0, "Impossible.", 0.0),
        (0.0, "impossible is nothing: done", 1.0),
    ],
)
def test_a_claim_is_false_while_the_goal_is_not_reached(reached: float, answer: str | None, claims: float) -> None:
    assert false_completion(reached, answer, gave_up="impossible") == claims
