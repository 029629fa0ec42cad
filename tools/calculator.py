"""A calculator: text becomes a parsed expression over + - * / and parentheses, its value an exact fraction.

It does not know what an expression is for. Nothing is evaluated but what the parser made: no names, no functions, no
powers, no signs. Text has at most MAX_LENGTH characters, so that time and the size of results are bounded too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

from agentgrpo.errors import ToolError

MAX_LENGTH = 200  # characters; so a value has at most about 200 digits
MAX_DIGITS = 9  # of a number
MAX_DEPTH = 20  # of parentheses
OPERATORS = "+-*/"
_RANK = {"+": 1, "-": 1, "*": 2, "/": 2}
_TOKEN = re.compile(r" *([0-9]+|[-+*/()])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """A number as it was written: a natural number."""

    value: int

    def numbers(self) -> list[int]:
        """Return the number, alone."""
        return [self.value]

    def operators(self) -> set[str]:
        """Return nothing: a number has no operator."""
        return set()

    def evaluate(self) -> Fraction:
        """Return the number."""
        return Fraction(self.value)

    def __str__(self) -> str:
        return str(self.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """Two expressions and what is done with them."""

    operator: str
    left: Expression
    right: Expression

    def numbers(self) -> list[int]:
        """Return the numbers in it, from left to right, each as often as it is written."""
        return self.left.numbers() + self.right.numbers()

    def operators(self) -> set[str]:
        """Return the operators in it."""
        return {self.operator} | self.left.operators() | self.right.operators()

    def evaluate(self) -> Fraction:
        """Return its value.

        Raises:
            ToolError: it divides by zero.
        """
        return apply(self.operator, self.left.evaluate(), self.right.evaluate())

    def __str__(self) -> str:
        rank = _RANK[self.operator]
        return f"{_inner(self.left, rank)}{self.operator}{_inner(self.right, rank + 1)}"


Expression: TypeAlias = Number | Operation


def parse(text: str) -> Expression:
    """Return the expression a text is, and is wholly.

    expression = term {("+" | "-") term}, term = factor {("*" | "/") factor}, factor = number | "(" expression ")".
    A number is ASCII digits that do not start with 0, or 0 itself. Only spaces may stand between.

    Raises:
        ToolError: it is not an expression; the message says where.
    """
    reader = _Reader(text)
    expression = reader.expression(0)
    reader.end()
    return expression


def apply(operator: str, left: Fraction, right: Fraction) -> Fraction:
    """Return the value of an operation.

    Raises:
        ToolError: it divides by zero.
    """
    if operator == "+":
        return left + right
    if operator == "-":
        return left - right
    if operator == "*":
        return left * right
    if right == 0:
        raise ToolError("this divides by zero")
    return left / right


class _Reader:
    """Reads an expression by recursive descent."""

    def __init__(self, text: str) -> None:
        if len(text) > MAX_LENGTH:
            raise ToolError(f"an expression has at most {MAX_LENGTH} characters, this one has {len(text)}")
        self._tokens = _tokens(text)
        self._at = 0

    def expression(self, depth: int) -> Expression:
        left = self._term(depth)
        while (operator := self._take("+-")) is not None:
            left = Operation(operator=operator, left=left, right=self._term(depth))
        return left

    def end(self) -> None:
        if self._at < len(self._tokens):
            raise ToolError(f"expected one of {' '.join(OPERATORS)} or the end, got '{self._tokens[self._at]}'")

    def _term(self, depth: int) -> Expression:
        left = self._factor(depth)
        while (operator := self._take("*/")) is not None:
            left = Operation(operator=operator, left=left, right=self._factor(depth))
        return left

    def _factor(self, depth: int) -> Expression:
        token = self._take("0123456789(")
        if token is None:
            got = f"'{self._tokens[self._at]}'" if self._at < len(self._tokens) else "the end"
            raise ToolError(f"expected a number or '(', got {got}")
        if token != "(":
            return _number(token)
        if depth == MAX_DEPTH:
            raise ToolError(f"parentheses are at most {MAX_DEPTH} deep")
        inner = self.expression(depth + 1)
        if self._take(")") is None:
            raise ToolError("a '(' is not closed")
        return inner

    def _take(self, starts: str) -> str | None:
        """Return the next token when it starts with one of these characters."""
        if self._at == len(self._tokens) or self._tokens[self._at][0] not in starts:
            return None
        self._at += 1
        return self._tokens[self._at - 1]


def _tokens(text: str) -> list[str]:
    tokens: list[str] = []
    text, at = text.rstrip(" "), 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ToolError(f"'{text[at:].lstrip(' ')[0]}' is not part of arithmetic: use numbers, + - * / and ( )")
        tokens.append(match[1])
        at = match.end()
    return tokens


def _number(token: str) -> Number:
    if len(token) > MAX_DIGITS:
        raise ToolError(f"a number has at most {MAX_DIGITS} digits")
    if token[0] == "0" and token != "0":
        raise ToolError(f"a number does not start with 0: {token}")
    return Number(value=int(token))


def _inner(expression: Expression, rank: int) -> str:
    """Return a part of an expression, in parentheses where it would bind weaker than its surroundings."""
    is_weaker = isinstance(expression, Operation) and _RANK[expression.operator] < rank
    return f"({expression})" if is_weaker else str(expression)
