from __future__ import annotations

from typing import Any

from agentgrpo.store import RunDirectory
from agentgrpo.viewer.effects import Effect, effect_of, tool_effects
from agentgrpo.viewer.runs import Runs

CHANGE = [{"op": "replace", "path": "/orders/1/status", "value": "refunded"}]


def record(*turns: tuple[list[str], Any, bool]) -> Any:
    """Return a record of turns: the tools called, the change of the state, whether a call failed."""
    return {
        "turns": [
            {
                "action": {"content": "", "tool_calls": [{"name": name} for name in names]},
                "state_diff": diff,
                "messages": [{"role": "tool", "content": "", "is_error": failed}],
            }
            for names, diff, failed in turns
        ]
    }


def test_turns_that_changed_the_state_are_counted() -> None:
    found = effect_of("refund", [record((["refund"], CHANGE, False), (["refund"], [], False), (["get"], [], False))])
    assert (found.turns, found.changed, found.rate) == (2, 1, 0.5)


def test_a_turn_that_calls_something_else_too_says_nothing() -> None:
    assert effect_of("refund", [record((["refund", "cancel"], CHANGE, False))]) == Effect()


def test_a_call_that_failed_says_nothing() -> None:
    assert effect_of("refund", [record((["refund"], [], True))]) == Effect()


def test_an_environment_that_does_not_say_what_changed_leaves_it_unknown() -> None:
    found = effect_of("refund", [record((["refund"], None, False))])
    assert found.rate is None


def test_an_action_without_calls_is_passed_over() -> None:
    turn = {"action": {"content": "done"}, "state_diff": [], "messages": []}
    assert effect_of("refund", [{"turns": [turn]}]) == Effect()


def test_a_tool_of_a_run_acts_in_either_span(run: RunDirectory) -> None:
    with Runs(run.path.parent).get(run.path.name).reader() as reader:
        found = tool_effects(reader, ["cancel_order", "find_order"], "train", (1, 1), (2, 3))
    assert found["cancel_order"][1].rate == 1.0
    assert [effect.rate for effect in found["find_order"]] == [0.0, 0.0]
