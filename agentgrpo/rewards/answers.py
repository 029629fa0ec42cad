"""Whether an answer is the one that was asked for: a text, a number, or the fields of a JSON object.

Answers are compared as wholes: one that lists every option, or hides the right one in prose, is wrong. Nothing here
raises on what a model wrote; nothing knows the meaning of words.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence

from agentgrpo.calls import flaw, loads
from agentgrpo.errors import EnvError
from agentgrpo.types import Json, JsonObject

# Signs inside a word or number stay: 12.5 is not 12 5, a@b.com is not a b com; so does a minus: -5 is not 5.
_WORD = re.compile(r"(?:(?<!\w)-(?=\d))?[^\W_]+(?:(?:[^\w\s]|_)+[^\W_]+)*")
_NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?(?!\.?\w)")
_FENCE = re.compile(r"```(?:json)?\s*\n(.*)\n\s*```", re.DOTALL)
_LONGEST = 20_000  # characters of an answer that are looked at: a longer one is wrong


def normalize(text: str) -> str:
    """Return a text without case, variants of characters (NFKC), extra white space, and signs around its words."""
    plain = unicodedata.normalize("NFKC", text).replace("\N{MINUS SIGN}", "-").casefold()
    return " ".join(_WORD.findall(plain))


def text_match(answer: str | None, *expected: str) -> float:
    """Return 1 when the answer is one of the expected texts, normalised; else 0.

    Raises:
        EnvError: an expected text is empty once normalised, so that saying nothing would be right.
    """
    wanted = [normalize(text) for text in expected]
    if not wanted or not all(wanted):
        raise EnvError(f"text_match got the expected answers {list(expected)!r}: each needs a letter or a digit")
    return float(answer is not None and len(answer) <= _LONGEST and normalize(answer) in wanted)


def number_match(answer: str | None, expected: float, *, tolerance: float = 0.0, relative: float = 0.0) -> float:
    """Return 1 when the answer holds exactly one number and it is the expected one; else 0.

    Words, currencies and thousands separators beside it do not matter; a second number does.

    Args:
        answer: The final message.
        expected: A finite number.
        tolerance: How far off it may be.
        relative: The same as a share of the expected number; the larger of both holds.

    Raises:
        EnvError: the expected number or a tolerance is none.
    """
    _check_tolerances(expected, tolerance, relative)
    plain = unicodedata.normalize("NFKC", answer or "").replace("\N{MINUS SIGN}", "-")
    found = _NUMBER.findall(plain) if len(plain) <= _LONGEST else []
    return float(len(found) == 1 and _is_near(float(found[0].replace(",", "")), expected, tolerance, relative))


def fields_match(
    answer: str | None, expected: Mapping[str, Json], *, tolerance: float = 0.0, relative: float = 0.0
) -> float:
    """Return the share of fields that are right in an answer that is a JSON object, in [0, 1].

    `right / (expected fields + fields nobody asked for)`. A code fence around the object does not matter; text beside
    it, or a key that is there twice, makes the whole wrong.

    Args:
        answer: The final message.
        expected: The fields and their values.
        tolerance: How far off each number may be.
        relative: The same as a share of the expected number.

    Raises:
        EnvError: no field is expected, or a tolerance is none.
    """
    _check_tolerances(0.0, tolerance, relative)
    if not expected:
        raise EnvError("fields_match got no expected field: without any, every answer would be right")
    given = _read_object(answer)
    if given is None:
        return 0.0
    right = sum(
        name in given and same_value(given[name], value, tolerance=tolerance, relative=relative)
        for name, value in expected.items()
    )
    return right / len(expected.keys() | given.keys())


def same_value(given: Json, expected: Json, *, tolerance: float = 0.0, relative: float = 0.0) -> bool:
    """Return whether a value of an answer or argument is the expected one.

    Texts are compared normalised, numbers within the tolerance (a text that is just the number will do), lists and
    objects part by part; true is not 1.
    """
    if isinstance(expected, bool) or expected is None or isinstance(given, bool) or given is None:
        return given is expected
    if isinstance(expected, int | float):
        number = _as_number(given)
        return number is not None and _is_near(number, expected, tolerance, relative)
    if isinstance(expected, str):
        return isinstance(given, str) and (given == expected or normalize(given) == normalize(expected) != "")
    if isinstance(expected, Mapping):
        return (
            isinstance(given, Mapping)
            and given.keys() == expected.keys()
            and all(same_value(given[k], v, tolerance=tolerance, relative=relative) for k, v in expected.items())
        )
    return (
        isinstance(expected, Sequence)
        and isinstance(given, Sequence)
        and not isinstance(given, str)
        and len(given) == len(expected)
        and all(
            same_value(one, other, tolerance=tolerance, relative=relative)
            for one, other in zip(given, expected, strict=True)
        )
    )


def _read_object(answer: str | None) -> JsonObject | None:
    text = (answer or "").strip()
    fenced = _FENCE.fullmatch(text)
    value = loads(fenced[1] if fenced else text) if len(text) <= _LONGEST else None
    return value if isinstance(value, dict) and flaw(value) is None else None


def _as_number(value: Json) -> float | None:
    if isinstance(value, str):
        found = _NUMBER.fullmatch(value.strip())
        value = float(found[0].replace(",", "")) if found else None
    try:
        return float(value) if isinstance(value, int | float) else None
    except OverflowError:  # an int no float can hold
        return None


def _is_near(number: float, expected: float, tolerance: float, relative: float) -> bool:
    # A hair of rounding: 0.1 + 0.2 is 0.3.
    allowed = max(tolerance, relative * abs(expected), 1e-12 * abs(expected))
    return math.isfinite(number) and abs(number - expected) <= allowed


def _check_tolerances(expected: float, tolerance: float, relative: float) -> None:
    if not (math.isfinite(expected) and 0 <= tolerance < math.inf and 0 <= relative < math.inf):
        raise EnvError(
            f"expected a finite number and tolerances of at least 0, got {expected}, tolerance {tolerance} and "
            f"relative {relative}"
        )
