from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentgrpo.errors import EnvError
from agentgrpo.rewards import (
    PUBLISHED_WEIGHTS,
    TOOL_CALL_WEIGHTS,
    RequiredCall,
    published_terms,
    tool_call_terms,
)
from agentgrpo.rewards.toolcalls import call_budget, cover, grade
from agentgrpo.types import CallRecord


def ran(name: str, /, **arguments: Any) -> CallRecord:
    return CallRecord(name=name, arguments=arguments, result="ok")


def broke(name: str, error: str, /, **arguments: Any) -> CallRecord:
    return CallRecord(name=name, arguments=arguments, result="{}", error=error)


UNREADABLE = CallRecord(name="", arguments=None, result="{}", error="invalid_json")
FIND, CANCEL = ran("find", name="Ann Lee"), ran("cancel", order="o1")
PLAN = (
    RequiredCall(name="find", arguments={"name": "ann lee"}),
    RequiredCall(name="cancel", arguments={"order": "o1"}, after=(0,)),
)


def terms(*calls: CallRecord, required: tuple[RequiredCall, ...] = PLAN) -> dict[str, float]:
    return {name: round(value, 4) for name, value in tool_call_terms(calls, required).items()}


def total(*calls: CallRecord, required: tuple[RequiredCall, ...] = PLAN) -> float:
    return sum(TOOL_CALL_WEIGHTS[name] * value for name, value in tool_call_terms(calls, required).items())


def test_a_perfect_episode_has_everything() -> None:
    full = {"validity": 1.0, "coverage": 1.0, "name": 1.0, "argument": 1.0, "inefficiency": 0.0}
    assert terms(FIND, CANCEL) == full
    assert terms(FIND, ran("find", name="ann lee"), CANCEL) == full  # within the budget of 3


def test_no_call_has_nothing() -> None:
    assert set(terms().values()) == {0.0}


@pytest.mark.parametrize(
    ("call", "value"),
    [
        (UNREADABLE, 0.0),
        (broke("nonesuch", "unknown_tool"), 0.0),
        (broke("find", "invalid_arguments"), 1 / 3),
        (broke("find", "too_deep"), 1 / 3),
        (broke("find", "tool_error"), 2 / 3),
        (broke("find", "timeout"), 2 / 3),
        (FIND, 1.0),
    ],
)
def test_a_call_is_graded_by_how_far_it_got(call: CallRecord, value: float) -> None:
    assert grade(call) == value


def test_validity_is_the_best_call_less_what_is_wrong_by_the_budget() -> None:
    assert terms(broke("find", "invalid_arguments"))["validity"] == round(1 / 3 * (1 - 2 / 3 / 3), 4)
    assert terms(FIND, UNREADABLE)["validity"] == round(1 - 1 / 3, 4)
    assert terms(FIND, *[UNREADABLE] * 9)["validity"] == 0.0


def test_coverage_respects_the_order_of_what_depends_on_each_other() -> None:
    assert terms(CANCEL, FIND)["coverage"] == 0.5
    assert terms(CANCEL, FIND, CANCEL)["coverage"] == 1.0
    loose = (PLAN[0], RequiredCall(name="cancel", arguments={"order": "o1"}))
    assert terms(CANCEL, FIND, required=loose)["coverage"] == 1.0


def test_a_call_covers_one_requirement_and_only_if_it_ran() -> None:
    twice = (RequiredCall(name="press"), RequiredCall(name="press"))
    assert terms(ran("press"), required=twice)["coverage"] == 0.5
    assert cover([ran("press"), ran("press")], twice) == {0: 0, 1: 1}
    assert terms(broke("find", "tool_error", name="ann lee"))["coverage"] == 0.0


def test_beyond_the_budget_calls_only_cost() -> None:
    late = [ran("list")] * 3
    assert terms(*late, FIND, CANCEL)["coverage"] == 0.0
    assert terms(*late, FIND, CANCEL)["inefficiency"] == round(2 / 3, 4)
    assert terms(*late * 9)["inefficiency"] == 1.0
    assert tool_call_terms([*late, FIND, CANCEL], PLAN, slack=2.0)["coverage"] == 1.0


def test_names_count_found_ones_less_others() -> None:
    assert terms(FIND)["name"] == 0.5
    assert terms(FIND, ran("list"))["name"] == round(0.5 * (1 - 1 / 3), 4)


def test_arguments_count_by_share_for_the_best_namesake() -> None:
    plan = (RequiredCall(name="refund", arguments={"order": "o1", "amount": 5, "reason": "late"}),)
    assert terms(ran("refund", order="o1", amount=5, reason="late"), required=plan)["argument"] == 1.0
    assert terms(ran("refund", order="o1", amount=9), required=plan)["argument"] == round(1 / 3, 4)
    calls = (ran("refund", order="o2"), broke("refund", "tool_error", order="o1", amount=5.0))
    assert terms(*calls, required=plan)["argument"] == round(2 / 3, 4)


def test_a_task_without_calls_asks_for_none() -> None:
    assert terms(required=()) == dict.fromkeys(TOOL_CALL_WEIGHTS, 0.0) | {"coverage": 1.0}
    assert terms(FIND, required=()) == dict.fromkeys(TOOL_CALL_WEIGHTS, 0.0) | {"inefficiency": 1.0}


@pytest.mark.parametrize("after", [(1,), (0, 7), (-1,)])
def test_a_call_cannot_come_after_a_later_one(after: tuple[int, ...]) -> None:
    with pytest.raises(EnvError, match="expected places before its own"):
        tool_call_terms([], (PLAN[0], RequiredCall(name="x", after=after)))


def test_a_negative_slack_is_refused() -> None:
    with pytest.raises(EnvError, match="slack = -1"):
        tool_call_terms([], PLAN, slack=-1)


# Proof to padding

names = st.sampled_from(["find", "cancel", "list", "nonesuch"])
errors = st.sampled_from([None, None, "invalid_arguments", "tool_error", "unknown_tool"])
calls = st.builds(
    lambda name, value, error: CallRecord(name=name, arguments={"x": value}, result="", error=error),
    names,
    st.integers(0, 2),
    errors,
)
required = st.lists(
    st.builds(lambda name, value: RequiredCall(name=name, arguments={"x": value}), names, st.integers(0, 2)),
    min_size=1,
    max_size=4,
).map(tuple)


@settings(max_examples=150)
@given(st.lists(calls, max_size=7), required)
def test_every_term_is_bounded_and_the_sum_is_below_the_outcome(
    made: list[CallRecord], plan: tuple[RequiredCall, ...]
) -> None:
    assert all(0.0 <= value <= 1.0 for value in tool_call_terms(made, plan).values())
    assert all(0.0 <= value <= 1.0 for value in published_terms(made, plan).values())
    assert -0.05 <= total(*made, required=plan) <= 0.13 + 1e-9


@settings(max_examples=150)
@given(st.lists(calls, min_size=1, max_size=6), required, st.lists(st.integers(0, 9), max_size=6))
def test_repeating_what_was_done_never_earns_beyond_the_first_needed(
    made: list[CallRecord], plan: tuple[RequiredCall, ...], again: list[int]
) -> None:
    """A repetition earns only where the task itself requires the same call more often than it was made."""
    distinct = len({(one.name, tuple(one.arguments.items())) for one in plan}) == len(plan)
    padding = [made[place % len(made)] for place in again]
    padding = [call for call in padding if call.error is None]
    if distinct and any(call.error is None for call in made) and _is_settled(made, plan):
        assert total(*made, *padding, required=plan) <= total(*made, required=plan) + 1e-9


def _is_settled(made: list[CallRecord], plan: tuple[RequiredCall, ...]) -> bool:
    """Whether what was made is within the budget, so that repeating cannot bring in a call that came too late."""
    return len(made) <= call_budget(plan)


@settings(max_examples=150)
@given(st.lists(calls, max_size=6), required, st.lists(st.integers(0, 2), max_size=8))
def test_good_calls_that_meet_nothing_never_raise_an_episode_in_which_a_call_ran(
    made: list[CallRecord], plan: tuple[RequiredCall, ...], values: list[int]
) -> None:
    padding = [ran("browse", x=value) for value in values]
    if any(call.error is None for call in made):
        assert total(*made, *padding, required=plan) <= total(*made, required=plan) + 1e-9


# As published


def published(*made: CallRecord, required: tuple[RequiredCall, ...]) -> float:
    return sum(PUBLISHED_WEIGHTS[name] * value for name, value in published_terms(made, required).items())


FOUR = tuple(RequiredCall(name=name, arguments={"x": place}) for place, name in enumerate("abcd"))
DONE = tuple(ran(name, x=place) for place, name in enumerate("abcd"))


def test_a_perfect_episode_has_the_papers_total() -> None:
    assert published(*DONE, required=FOUR) == pytest.approx(1.3)


def test_abstention_is_one_without_a_call_else_nothing() -> None:
    assert published(required=()) == 1.0
    assert published(DONE[0], required=()) == 0.0


@pytest.mark.parametrize(("count", "value"), [(6, 0.0), (8, -0.1667), (12, -0.5), (99, -0.5)])
def test_the_papers_efficiency_at_four_required_calls(count: int, value: float) -> None:
    found = published_terms([DONE[0]] * count, FOUR)["inefficiency"]
    assert -0.5 * found == pytest.approx(value, abs=1e-4)


def test_the_published_means_can_be_farmed_and_ours_cannot() -> None:
    poor = (DONE[0], broke("z", "unknown_tool"))
    padded = (*poor, DONE[0], DONE[0])
    assert published(*poor, required=FOUR) == pytest.approx(0.575)
    assert published(*padded, required=FOUR) == pytest.approx(0.75)
    assert total(*padded, required=FOUR) == pytest.approx(total(*poor, required=FOUR))


def test_padding_never_raises_a_perfect_episode_as_published() -> None:
    for count in range(12):
        assert published(*DONE, *[DONE[0]] * count, required=FOUR) <= 1.3 + 1e-9
