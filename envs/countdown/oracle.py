"""The scripted player of countdown: tries expressions on the calculator until one makes the target, and answers it.

One operation on two numbers is found by trying them all in order; a longer way by search in the player's head. Below
quality 1 it tries any operation first where it should search, and now and then answers with one that missed the target.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

from agentgrpo.envs.attempt import Attempt, Script
from agentgrpo.envs.countdown.solver import solve, whole
from agentgrpo.errors import TaskError
from agentgrpo.tools.calculator import Expression
from agentgrpo.types import JsonObject

MOST_GUESSES = 4


def play(attempt: Attempt) -> Script[None]:
    """Solve the current task and give the final answer.

    Raises:
        TaskError: steps to positive whole numbers do not lead to the target.
    """
    numbers, target, operators = (attempt.goal[key] for key in ("numbers", "target", "operators"))
    solution = solve(numbers, target, operators)
    if solution is None:
        raise TaskError(f"the oracle finds no way from {numbers} to {target} by {' '.join(operators)} in whole steps")
    for expression in _tries(attempt, solution):
        shown: JsonObject = yield from attempt.ask("calculate", expression=expression)
        if shown.get("result") == target or not attempt.is_careful():
            yield attempt.actions.say(expression)
            return
    raise AssertionError("unreachable: the last try is the solution")


def _tries(attempt: Attempt, solution: Expression) -> Iterator[str]:
    """Return what is tried; the solution is among it."""
    operations = _operations(attempt.goal["numbers"], attempt.goal["operators"])
    if len(solution.numbers()) == 2:
        yield from operations
        return
    for _ in range(MOST_GUESSES):
        if attempt.is_careful():
            break
        yield attempt.guess(operations)
    yield str(solution)


def _operations(numbers: Sequence[int], operators: str) -> list[str]:
    """Return all operations on two of the numbers, the larger one first, operator by operator, that are whole."""
    pairs = [(max(pair), min(pair)) for pair in combinations(numbers, 2)]
    return [f"{a}{operator}{b}" for operator in operators for a, b in pairs if whole(operator, a, b) is not None]
