"""The scripted player of countdown: finds an expression by search, tries it on the calculator, and answers.

Below quality 1 it sometimes tries any expression instead, and sometimes answers with one that missed the target.
"""

from __future__ import annotations

from collections.abc import Sequence

from agentgrpo.envs.attempt import Attempt, Script
from agentgrpo.envs.countdown.solver import solve
from agentgrpo.errors import TaskError
from agentgrpo.types import JsonObject

MOST_TRIES = 5


def play(attempt: Attempt) -> Script[None]:
    """Solve the current task and give the final answer.

    Raises:
        TaskError: steps to positive whole numbers do not lead to the target.
    """
    numbers, target, operators = (attempt.goal[key] for key in ("numbers", "target", "operators"))
    solution = solve(numbers, target, operators)
    if solution is None:
        raise TaskError(f"the oracle finds no way from {numbers} to {target} by {' '.join(operators)} in whole steps")
    for _ in range(MOST_TRIES):
        expression = str(solution) if attempt.is_careful() else _guess(attempt, numbers, operators)
        shown: JsonObject = yield from attempt.ask("calculate", expression=expression)
        if shown.get("result") == target or not attempt.is_careful():
            break
    yield attempt.actions.say(expression)


def _guess(attempt: Attempt, numbers: Sequence[int], operators: str) -> str:
    """Return an operation on any two of the numbers, the larger one first."""
    left = attempt.guess(numbers)
    right = attempt.guess([number for number in numbers if number != left] or numbers)
    return f"{max(left, right)}{attempt.guess(operators)}{min(left, right)}"
