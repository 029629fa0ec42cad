"""Goal checks: what has to hold in the end, whether it does, and the terms that follow from it.

It does not know where a state comes from; a state is JSON data.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from agentgrpo.errors import EnvError
from agentgrpo.rewards.answers import normalize
from agentgrpo.rewards.changes import value_at
from agentgrpo.types import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that has to hold in the end; what was expected and what is there are for people."""

    name: str
    passed: bool
    expected: Json = None
    actual: Json = None


def check(name: str, *, actual: Json, expected: Json) -> Check:
    """Return the check that a value is the expected one."""
    return Check(name=name, passed=actual == expected, expected=expected, actual=actual)


def check_state(state: Json, goals: Mapping[str, Json]) -> tuple[Check, ...]:
    """Return one check per goal.

    Args:
        state: JSON data, such as an environment's `state()`.
        goals: JSON Pointer (RFC 6901) -> the value wanted there. None: nothing is there, or null.
    """
    return tuple(
        check(pointer, actual=value_at(state, pointer), expected=expected) for pointer, expected in goals.items()
    )


def outcome(checks: Iterable[Check], *, is_clean: bool = True) -> float:
    """Return 1 when every check passed, and nothing else was changed as far as `is_clean` tells; else 0.

    Raises:
        EnvError: there is no check, so doing nothing would have succeeded.
    """
    found = tuple(checks)
    if not found:
        raise EnvError("an outcome needs at least one goal check: without any, doing nothing would succeed")
    return float(is_clean and all(check.passed for check in found))


def progress(checks: Sequence[Check], at_start: Sequence[Check]) -> float:
    """Return the share of the goals open at the start that are reached, in [0, 1].

    `max(0, (reached - broken) / open)`: `open` are the checks that failed at the start, `reached` those of them that
    pass now, `broken` the checks that passed at the start and fail now. Doing nothing is 0, whatever held already;
    MobileGym (arXiv 2605.26114) counts what held from the start as well. Nothing open at the start gives 0.

    Args:
        checks: As things stand.
        at_start: The same checks, made right after the reset.

    Raises:
        EnvError: they are not the same checks.
    """
    now, then = ({check.name: check.passed for check in made} for made in (checks, at_start))
    if now.keys() != then.keys() or len(now) != len(checks) or len(then) != len(at_start):
        raise EnvError(
            f"progress needs the same checks at the start and now, each name once: got {sorted(then)} and {sorted(now)}"
        )
    is_open = [name for name, passed in then.items() if not passed]
    broken = sum(passed and not now[name] for name, passed in then.items())
    reached = sum(now[name] for name in is_open)
    return max(0.0, (reached - broken) / len(is_open)) if is_open else 0.0


def false_completion(reached: float, answer: str | None, *, gave_up: str | None = None) -> float:
    """Return 1 when the agent says that it is done while it is not, else 0.

    Args:
        reached: The outcome.
        answer: The final message; None (a limit ended the episode) and a blank one claim nothing.
        gave_up: The answer that says "I could not" and claims nothing, as the task asks for it; compared as a whole,
            so that it cannot hide in a claim.
    """
    is_claim = bool(answer and answer.strip()) and (gave_up is None or normalize(answer or "") != normalize(gave_up))
    return float(is_claim and reached < 1.0)
