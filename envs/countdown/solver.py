"""Which targets a set of numbers can make, and how: all subsets, the smallest first.

It takes steps to positive whole numbers only, as the game on television does. An answer may go through fractions and
negative numbers too, so that what is not found here may still have a solution.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from agentgrpo.tools.calculator import Expression, Number, Operation


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """How a value is made of two others, each with the subset (a bit mask of indices) that makes it."""

    operator: str
    left: tuple[int, int]  # subset, value
    right: tuple[int, int]


class Reach:
    """The values that subsets of some numbers can make with some operators, found subset by subset.

    In its expressions the larger part of an operation comes first.

    Args:
        numbers: The numbers; each is used at most once.
        operators: A choice of + - * /.
    """

    def __init__(self, numbers: Sequence[int], operators: str) -> None:
        self._numbers, self._operators = numbers, operators
        self._steps: dict[int, dict[int, Step | None]] = {1 << i: {n: None} for i, n in enumerate(numbers)}

    def values(self, most: int) -> Iterator[tuple[int, int]]:
        """Yield (subset, value) for all subsets of at most so many numbers, smaller subsets first."""
        bits = [1 << index for index in range(len(self._numbers))]
        for size in range(1, most + 1):
            for chosen in combinations(bits, size):
                subset = sum(chosen)
                if subset not in self._steps:
                    self._steps[subset] = self._combine(subset)
                yield from ((subset, value) for value in self._steps[subset])

    def expression(self, subset: int, value: int) -> Expression:
        """Return an expression of a value that was found."""
        step = self._steps[subset][value]
        if step is None:
            return Number(value=value)
        return Operation(operator=step.operator, left=self.expression(*step.left), right=self.expression(*step.right))

    def _combine(self, subset: int) -> dict[int, Step | None]:
        found: dict[int, Step | None] = {}
        part = (subset - 1) & subset
        while part:  # each part of the subset, and what is left of it; both orders of a pair come up
            for left in self._steps[part]:
                for right in self._steps[subset ^ part]:
                    for operator in self._operators if left >= right else "":
                        value = whole(operator, left, right)
                        if value is not None and value not in found:
                            found[value] = Step(operator=operator, left=(part, left), right=(subset ^ part, right))
            part = (part - 1) & subset
        return found


def solve(numbers: Sequence[int], target: int, operators: str) -> Expression | None:
    """Return an expression of the target with the fewest numbers, or None when whole steps do not lead there."""
    reach = Reach(numbers, operators)
    for subset, value in reach.values(len(numbers)):
        if value == target:
            return reach.expression(subset, value)
    return None


def whole(operator: str, left: int, right: int) -> int | None:
    """Return the value of an operation on positive whole numbers if it is one too, else None."""
    if operator == "+":
        return left + right
    if operator == "*":
        return left * right
    if operator == "-":
        return left - right if left > right else None
    return left // right if left % right == 0 else None
