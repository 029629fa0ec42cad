from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgrpo.errors import ToolError
from agentgrpo.tools.calculator import (
    MAX_DEPTH,
    MAX_DIGITS,
    MAX_LENGTH,
    OPERATORS,
    Expression,
    Number,
    Operation,
    apply,
    parse,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7),
        ("0", 0),
        (" 1 + 2 ", 3),
        ("2+3*4", 14),
        ("(2+3)*4", 20),
        ("10-4-3", 3),
        ("10-(4-3)", 9),
        ("12/4/3", 1),
        ("12/(4/3)", 9),
        ("2*3+4*5", 26),
        ("((7))", 7),
        ("1/3+1/6", Fraction(1, 2)),
        ("3-5", -2),
        ("0*5", 0),
        ("999999999*999999999", 999999999**2),
    ],
)
def test_precedence_is_that_of_school(text: str, value: Fraction | int) -> None:
    assert parse(text).evaluate() == value


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "got the end"),
        ("   ", "got the end"),
        ("()", r"got '\)'"),
        ("1+", "got the end"),
        ("+1", r"got '\+'"),
        ("-1", "got '-'"),
        ("--1", "got '-'"),
        ("2-+1", r"got '\+'"),
        ("1 2", "or the end, got '2'"),
        ("(1)(2)", r"or the end, got '\('"),
        ("2(3)", r"or the end, got '\('"),
        ("(1+2", "not closed"),
        ("1+2)", r"got '\)'"),
        ("2**3", r"got '\*'"),
        ("7//2", "got '/'"),
        ("2^3", r"'\^' is not part"),
        ("7%4", "'%' is not part"),
        ("3=3", "'=' is not part"),
        ("1,2", "',' is not part"),
        ("1.5", "'.' is not part"),
        ("1e3", "'e' is not part"),
        ("0x10", "'x' is not part"),
        ("1_000", "'_' is not part"),
        ("3!", "'!' is not part"),
        ("abs(3)", "'a' is not part"),
        ("__import__('os')", "'_' is not part"),
        ("1#2", "'#' is not part"),
        ("1\n+2", "is not part"),
        ("1\t+2", "is not part"),
        ("1\u00a0+2", "is not part"),
        ("1\0", "is not part"),
        ("\ud800", "is not part"),
        ("\uff13+\uff18", "'\uff13' is not part"),
        ("\u0663", "is not part"),
        ("\u00b2", "is not part"),
        ("3\u00b2", "is not part"),
        ("\u2462", "is not part"),
        ("8\u00d73", "is not part"),
        ("8\u22123", "is not part"),
        ("8\u20443", "is not part"),
        ("007", "does not start with 0"),
        ("1" * (MAX_DIGITS + 1), "at most 9 digits"),
        ("1+" * MAX_LENGTH, "at most 200 characters"),
        ("(" * (MAX_DEPTH + 1) + "1" + ")" * (MAX_DEPTH + 1), "at most 20 deep"),
    ],
)
def test_what_is_no_expression_is_refused_and_said(text: str, told: str) -> None:
    with pytest.raises(ToolError, match=told):
        parse(text)


@pytest.mark.parametrize("text", ["1/0", "1/(2-2)", "0/0", "5/(1/2-1/2)"])
def test_division_by_zero_is_said(text: str) -> None:
    with pytest.raises(ToolError, match="divides by zero"):
        parse(text).evaluate()


def test_numbers_and_operators_are_those_written() -> None:
    expression = parse("(3+8)*3-12/4")
    assert expression.numbers() == [3, 8, 3, 12, 4]
    assert expression.operators() == {"+", "-", "*", "/"}
    assert parse("38").numbers() == [38]
    assert parse("5").operators() == set()


NUMBERS = st.integers(0, 999).map(lambda value: Number(value=value))


def operations(parts: st.SearchStrategy[Expression]) -> st.SearchStrategy[Expression]:
    return st.builds(
        lambda operator, left, right: Operation(operator=operator, left=left, right=right),
        st.sampled_from(OPERATORS),
        parts,
        parts,
    )


EXPRESSIONS: st.SearchStrategy[Expression] = st.recursive(NUMBERS, operations, max_leaves=12)


def value_of(expression: Expression) -> Fraction | None:
    """Return what Python's fractions make of an expression; None when it divides by zero."""
    if isinstance(expression, Number):
        return Fraction(expression.value)
    left, right = value_of(expression.left), value_of(expression.right)
    if left is None or right is None or (expression.operator == "/" and right == 0):
        return None
    sign = {"+": left + right, "-": left - right, "*": left * right}
    return left / right if expression.operator == "/" else sign[expression.operator]


@given(EXPRESSIONS)
def test_text_and_parser_agree_and_values_are_those_of_fractions(expression: Expression) -> None:
    assert parse(str(expression)) == expression
    expected = value_of(expression)
    if expected is None:
        with pytest.raises(ToolError, match="zero"):
            expression.evaluate()
    else:
        assert expression.evaluate() == expected


@given(EXPRESSIONS)
def test_python_reads_the_text_the_same(expression: Expression) -> None:
    text = "".join(f"Fraction({part})" if part.isdigit() else part for part in split(str(expression)))
    try:
        expected = eval(text, {"Fraction": Fraction})  # our own text, in a test
    except ZeroDivisionError:
        return
    assert expression.evaluate() == expected


def split(text: str) -> list[str]:
    spaced = "".join(character if character.isdigit() else f" {character} " for character in text)
    return spaced.split()


@given(st.one_of(st.text(), st.text("0123456789+-*/() ", max_size=60), st.text("1(/", max_size=220)))
def test_the_calculator_is_total(text: str) -> None:
    try:
        value = parse(text).evaluate()
    except ToolError as error:
        assert str(error)
    else:
        assert isinstance(value, Fraction)
        assert len(str(value)) <= 2 * MAX_LENGTH


def test_the_longest_expressions_are_done_at_once() -> None:
    deepest = "(" * MAX_DEPTH + "1" + ")" * MAX_DEPTH
    assert parse(deepest).evaluate() == 1
    assert parse("1" + "+1" * 99).evaluate() == 100
    assert parse("*".join(["999999999"] * 20)).evaluate() == 999999999**20
    assert parse("/".join(["999999999"] * 20)).evaluate() == Fraction(1, 999999999**18)


def test_apply_knows_the_four_operators() -> None:
    six, four = Fraction(6), Fraction(4)
    assert [apply(operator, six, four) for operator in OPERATORS] == [10, 2, 24, Fraction(3, 2)]
