"""Terms for how tools were called: validity, coverage, efficiency, names, arguments; PROVE's, made proof to padding.

PROVE (arXiv 2606.03892) takes means over the calls made, so that more good calls raise the reward of a poor episode
(its own formulas are in `prove`). Here a call that meets no requirement can only cost: what is wrong is counted against
a budget that the task sets, and nothing beyond that budget earns anything.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from agentgrpo.errors import EnvError
from agentgrpo.rewards.answers import same_value
from agentgrpo.types import CallRecord, Json

SLACK = 0.5  # PROVE's beta: calls a task allows beyond those it requires, as a share of them
TOOL_CALL_WEIGHTS: Mapping[str, float] = {
    "validity": 0.05,
    "coverage": 0.05,
    "name": 0.02,
    "argument": 0.01,
    "inefficiency": -0.05,
}
"""Weights in PROVE's proportions, with calls beyond the budget costing as much as coverage earns."""

# Kinds of errors that tell of arguments a tool was not called with; what they could hold is in `agentgrpo.calls`.
_REFUSED = {"invalid_arguments", "too_deep", "not_finite", "half_character", "number_too_long", "duplicate_key"}


@dataclass(frozen=True, slots=True, kw_only=True)
class RequiredCall:
    """A call a task cannot do without.

    `arguments` are those that matter; others may be anything. `after` are the places, in the list of required calls, of
    those it depends on: earlier ones, so that no circle can be written.
    """

    name: str
    arguments: Mapping[str, Json] = field(default_factory=dict)
    after: tuple[int, ...] = ()


def tool_call_terms(
    calls: Sequence[CallRecord], required: Sequence[RequiredCall], *, slack: float = SLACK
) -> dict[str, float]:
    """Return the five terms, each in [0, 1]; all 0 when no call was made.

    With n calls, g required ones and the budget `B = max(1, g + ceil(slack * g))`, `v` a call's `grade`:

    - `validity = max(v) * max(0, 1 - sum(1 - v) / B)`
    - `coverage`: required calls that were made, ran without an error, and came after those they depend on, over g
    - `name`: required tools that were called, over all required, times `max(0, 1 - calls of other tools / B)`
    - `argument`: mean over the required calls of the share of their arguments that the call made for them has
    - `inefficiency = min(1, max(0, n - B) / B)`: give it a negative weight

    The first B calls earn, the others only cost. A task that requires no call asks for none: `coverage` is 1 without
    any, and `inefficiency` 1 with one.

    Args:
        calls: Those of the episode, in order: a `ToolEnv`'s `calls`.
        required: Those of the task, in an order in which they can be made.
        slack: Calls allowed beyond the required ones, as a share of them; raise it where a task has to be explored.

    Raises:
        EnvError: a required call depends on a later one, or the slack is negative.
    """
    budget = call_budget(required, slack=slack)
    if not required:
        terms = dict.fromkeys(TOOL_CALL_WEIGHTS, 0.0)
        return terms | {"coverage": float(not calls), "inefficiency": float(bool(calls))}
    counted = calls[:budget]
    covered = cover(counted, required)
    return {
        "validity": _validity(calls, budget),
        "coverage": len(covered) / len(required),
        "name": _names(calls, counted, required, budget),
        "argument": _arguments(counted, required, covered),
        "inefficiency": min(1.0, max(0, len(calls) - budget) / budget),
    }


def call_budget(required: Sequence[RequiredCall], *, slack: float = SLACK) -> int:
    """Return how many calls a task allows: PROVE's adaptive budget, at least 1."""
    if not 0 <= slack < math.inf:
        raise EnvError(f"tool_call_terms got slack = {slack}, expected a number of at least 0")
    for place, wanted in enumerate(required):
        if not all(0 <= before < place for before in wanted.after):
            raise EnvError(
                f"required call {place} ({wanted.name}) comes after {list(wanted.after)}: expected places before its "
                "own; list the calls in an order in which they can be made"
            )
    return max(1, len(required) + math.ceil(slack * len(required)))


def grade(call: CallRecord) -> float:
    """Return how far a call got: 0 not readable or no such tool, 1/3 wrong arguments, 2/3 the tool failed, 1 it ran."""
    if call.error is None:
        return 1.0
    if call.arguments is None or call.error == "unknown_tool":
        return 0.0
    return 1 / 3 if call.error in _REFUSED else 2 / 3


def cover(calls: Sequence[CallRecord], required: Sequence[RequiredCall]) -> dict[int, int]:
    """Return which required call (by place) was met by which call; each call meets one at most.

    A call meets a requirement when it ran without an error, has its arguments, and came after the calls that met
    those it depends on: the earliest such call that is free.
    """
    met: dict[int, int] = {}
    taken: set[int] = set()
    for place, wanted in enumerate(required):
        if not all(before in met for before in wanted.after):
            continue
        start = max((met[before] + 1 for before in wanted.after), default=0)
        for index in range(start, len(calls)):
            if index not in taken and calls[index].error is None and has_arguments(calls[index], wanted) == 1.0:
                met[place] = index
                taken.add(index)
                break
    return met


def has_arguments(call: CallRecord, wanted: RequiredCall) -> float:
    """Return the share of a required call's arguments that a call has; 0 for a call of another tool."""
    if call.name != wanted.name or call.arguments is None:
        return 0.0
    given = call.arguments
    right = sum(name in given and same_value(given[name], value) for name, value in wanted.arguments.items())
    return right / len(wanted.arguments) if wanted.arguments else 1.0


def _validity(calls: Sequence[CallRecord], budget: int) -> float:
    grades = [grade(call) for call in calls]
    return max(grades, default=0.0) * max(0.0, 1 - sum(1 - value for value in grades) / budget)


def _names(
    calls: Sequence[CallRecord], counted: Sequence[CallRecord], required: Sequence[RequiredCall], budget: int
) -> float:
    wanted = {one.name for one in required}
    found = {call.name for call in counted} & wanted
    others = sum(call.name not in wanted for call in calls)
    return len(found) / len(wanted) * max(0.0, 1 - others / budget)


def _arguments(calls: Sequence[CallRecord], required: Sequence[RequiredCall], covered: Mapping[int, int]) -> float:
    free = set(range(len(calls))) - set(covered.values())
    total = float(len(covered))
    for place, wanted in enumerate(required):
        if place not in covered:
            best = max(free, key=lambda index: (has_arguments(calls[index], wanted), -index), default=None)
            if best is not None and (share := has_arguments(calls[best], wanted)):
                total += share
                free.discard(best)
    return total / len(required)
