from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgrpo.errors import EnvError
from agentgrpo.rewards import fields_match, normalize, number_match, same_value, text_match


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Done.", "done"),
        ("**24, Oak  Street**", "24 oak street"),
        ("ＡＢＣ", "abc"),  # noqa: RUF001 (full width: NFKC)
        ("a@b.com", "a@b.com"),
        ("-5", "-5"),
        ("\N{MINUS SIGN}5", "-5"),
        ("at 10:30", "at 10:30"),
        ("12.50!", "12.50"),
        ("?!", ""),
    ],
)
def test_a_normalised_text_keeps_what_tells_answers_apart(answer: str, expected: str) -> None:
    assert normalize(answer) == expected


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("Oak Street", 1.0),
        (" oak street. ", 1.0),
        ("Elm Road", 1.0),
        ("Oak Street, Elm Road", 0.0),
        ("It is Oak Street", 0.0),
        ("", 0.0),
        (None, 0.0),
        ("oak street " * 5000, 0.0),
    ],
)
def test_a_text_is_right_as_a_whole(answer: str | None, right: float) -> None:
    assert text_match(answer, "Oak Street", "Elm Road") == right


@pytest.mark.parametrize("expected", [(), ("",), ("?!",), ("a", " ")])
def test_an_expected_text_that_nothing_would_match_is_refused(expected: tuple[str, ...]) -> None:
    with pytest.raises(EnvError, match="each needs a letter or a digit"):
        text_match("x", *expected)


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("1234.5", 1.0),
        ("$1,234.50", 1.0),
        ("The total is 1234.5.", 1.0),
        ("1.2345e3", 1.0),
        ("+1234.5 %", 1.0),
        ("-1234.5", 0.0),
        ("1234.5 or 1235", 0.0),
        ("1 2 3 1234.5", 0.0),
        ("v1234.5", 0.0),
        ("1234.5.6", 0.0),
        ("about a thousand", 0.0),
        ("9" * 400, 0.0),
        ("", 0.0),
        (None, 0.0),
    ],
)
def test_a_number_is_right_when_it_is_the_only_one(answer: str | None, right: float) -> None:
    assert number_match(answer, 1234.5) == right


def test_a_tolerance_is_absolute_or_relative_whichever_is_larger() -> None:
    assert number_match("102", 100, tolerance=2) == 1.0
    assert number_match("103", 100, tolerance=2) == 0.0
    assert number_match("103", 100, tolerance=2, relative=0.05) == 1.0
    assert number_match(str(0.1 + 0.2), 0.3) == 1.0


@pytest.mark.parametrize(
    ("expected", "more"), [(float("nan"), {}), (1.0, {"tolerance": -1.0}), (1.0, {"relative": float("inf")})]
)
def test_a_tolerance_that_is_none_is_refused(expected: float, more: dict[str, float]) -> None:
    with pytest.raises(EnvError, match="expected a finite number and tolerances"):
        number_match("1", expected, **more)


WANTED: dict[str, Any] = {"name": "Ann Lee", "total": 12.5, "paid": True, "items": ["lamp", 2]}


@pytest.mark.parametrize(
    ("answer", "share"),
    [
        ('{"name": "ann lee", "total": 12.50, "paid": true, "items": ["Lamp", 2]}', 1.0),
        ('```json\n{"name": "ann lee", "total": "12.5", "paid": true, "items": ["Lamp", 2]}\n```', 1.0),
        ('{"name": "Ann Lee", "total": 12.6, "paid": 1, "items": [2, "lamp"]}', 0.25),
        ('{"name": "Ann Lee", "total": 12.5, "paid": true, "items": ["lamp", 2], "more": 1}', 0.8),
        ('Here: {"name": "Ann Lee"}', 0.0),
        ('{"name": "Bob", "name": "Ann Lee"}', 0.0),
        ('{"total": NaN}', 0.0),
        ("[" * 100_000, 0.0),
        ("[1]", 0.0),
        ("null", 0.0),
        (None, 0.0),
    ],
)
def test_fields_count_one_by_one_and_those_nobody_asked_for_cost(answer: str | None, share: float) -> None:
    assert fields_match(answer, WANTED) == share


def test_without_a_field_nothing_could_be_wrong_which_is_refused() -> None:
    with pytest.raises(EnvError, match="no expected field"):
        fields_match("{}", {})


@pytest.mark.parametrize(
    ("given_value", "expected", "same"),
    [
        (True, 1, False),
        (1, True, False),
        (1.0, 1, True),
        ("1", 1, True),
        ("1,000", 1000, True),
        ("one", 1, False),
        (10**400, 1, False),
        (None, None, True),
        (0, None, False),
        ("?", "?", True),
        ("!", "?", False),
        ({"a": [1]}, {"a": [1.0]}, True),
        ({"a": 1, "b": 2}, {"a": 1}, False),
        ("ab", ["a", "b"], False),
        (["a"], "a", False),
    ],
)
def test_values_are_compared_by_what_they_are(given_value: Any, expected: Any, same: bool) -> None:
    assert same_value(given_value, expected) is same


@given(st.text(), st.text(min_size=1))
def test_no_answer_raises_and_every_score_is_a_share(answer: str, expected: str) -> None:
    assert fields_match(answer, {"a": expected}) in (0.0, 0.5, 1.0)
    assert number_match(answer, 3) in (0.0, 1.0)
    assert text_match(answer, expected + "x") in (0.0, 1.0)


@given(st.text())
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalize(normalize(text)) == normalize(text)
