"""The countdown environment: reach a target with the numbers given, each used at most once.

The answer is an expression, read by the calculator's parser: nothing else a model writes can count as one. It does not
know how the agent works; it only shows it the calculator.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Generator
from fractions import Fraction
from typing import Any, ClassVar

from agentgrpo.envs.attempt import Attempt
from agentgrpo.envs.countdown.oracle import play
from agentgrpo.envs.countdown.tasks import COUNTDOWN_ROWS
from agentgrpo.envs.rows import ShippedEnv
from agentgrpo.errors import TaskError, ToolError
from agentgrpo.tooling import tool
from agentgrpo.tools.calculator import MAX_DIGITS, OPERATORS, Expression, parse
from agentgrpo.types import Json, JsonObject, Message

_NO_GOAL: JsonObject = {"numbers": [], "target": 0, "operators": OPERATORS}
MAX_NUMBERS = 6  # as on television; the oracle searches all subsets


class Countdown(ShippedEnv):
    """The numbers game: reach the target with + - * / and the numbers given, each used at most once.

    Own tasks have "numbers", a "target" and perhaps "operators" ("+-*/"). A shipped template is a kind of task;
    levels 1 to 3 have three, four and five numbers.
    """

    metadata: ClassVar[dict[str, Any]] = {"isolation": "inline"}  # type: ignore[misc]  # as in AgentEnv
    system_prompt = "Reach the target. Use each number at most once. Try with the tool, then answer with an expression."
    shipped = COUNTDOWN_ROWS
    _goal: JsonObject = _NO_GOAL

    def reset_task(self, task: JsonObject) -> str:
        """Lay out the numbers and name the target."""
        self._goal = _goal(task)
        numbers = " ".join(map(str, self._goal["numbers"]))
        return f"Make {self._goal['target']} from {numbers} with {' '.join(self._goal['operators'])}"

    @tool
    def calculate(self, expression: str) -> JsonObject:
        """Work out an expression. Shows the numbers it leaves."""
        parsed = parse(expression)
        value = parsed.evaluate()
        shown: JsonObject = {"result": value.numerator if value.denominator == 1 else str(value)}
        given: Counter[int] = Counter(self._goal["numbers"])
        used = Counter(parsed.numbers())
        if used <= given:
            return shown | {"left": list((given - used).elements())}
        return shown | {"not_given": list((used - given).elements())}

    def reward(self) -> dict[str, float]:
        """Return `outcome`: 1 when the answer is an expression that keeps the rules and makes the target."""
        return {"outcome": float(is_solution(self.answer or "", self._goal))}

    def oracle(
        self, *, quality: float = 1.0, rng: random.Random | None = None
    ) -> Generator[JsonObject, tuple[Message, ...], None]:
        """Solve the current task by search; below quality 1 with wrong tries and hasty answers."""
        return play(Attempt(self, self._goal, quality, rng or random.Random(0)))

    def snapshot(self) -> bytes:
        """Return the task, the answer and the calls."""
        return json.dumps(self.dump_episode()).encode()

    def restore(self, data: bytes) -> None:
        """Go back to a snapshot, of this environment or another one."""
        self.load_episode(json.loads(data))
        self._goal = _goal(self.task)

    def state(self) -> Json:
        """Return the numbers, the target, the operators and what was tried."""
        tried = [call.arguments["expression"] for call in self.calls if call.arguments and call.error is None]
        return self._goal | {"tried": tried}


def is_solution(answer: str, goal: JsonObject) -> bool:
    """Whether a text is an expression of the target's value, of the given operators, and each number at most once."""
    try:
        expression = parse(answer.strip())
        return _keeps_rules(expression, goal) and expression.evaluate() == Fraction(goal["target"])
    except ToolError:
        return False


def _keeps_rules(expression: Expression, goal: JsonObject) -> bool:
    return Counter(expression.numbers()) <= Counter(goal["numbers"]) and expression.operators() <= set(
        goal["operators"]
    )


def _goal(task: JsonObject) -> JsonObject:
    """Return the part of a row that makes the task, checked."""
    numbers, target, operators = task["numbers"], task["target"], task.get("operators", OPERATORS)
    limit = 10**MAX_DIGITS
    if not isinstance(numbers, list) or not 2 <= len(numbers) <= MAX_NUMBERS:
        raise TaskError(f"countdown needs a list of 2 to {MAX_NUMBERS} numbers, got {numbers!r}")
    for number in (*numbers, target):
        if type(number) is not int or not 0 < number < limit:
            raise TaskError(f"countdown needs whole numbers from 1 to {limit - 1}, got {number!r}")
    if not isinstance(operators, str) or not operators or not set(operators) <= set(OPERATORS):
        raise TaskError(f"operators must be a choice of {OPERATORS!r}, got {operators!r}")
    if target in numbers:
        raise TaskError(f"the target {target} is among the numbers {numbers}: the task is solved already")
    return {"numbers": numbers, "target": target, "operators": operators}
