from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentgrpo.calls import (
    MAX_BYTES,
    MAX_DEPTH,
    MAX_DIGITS,
    Flaw,
    bad_call,
    error_type,
    flaw,
    loads,
    make_call,
    read_call,
)
from agentgrpo.types import BadCall, ToolCall

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
ANY_TEXT = st.text(alphabet=st.characters()) | st.lists(
    st.sampled_from([*'{}[]",:\\-1e.', "null", "NaN", '"a"', '"name":', '"\\ud800"', "9" * 1001, "\n"])
).map("".join)


def call(arguments: str) -> str:
    return f'{{"name": "press", "arguments": {arguments}}}'


def nested(depth: int) -> str:
    return '{"a":' * depth + "1" + "}" * depth


@given(JSON)
def test_json_is_read_as_it_is(value: Any) -> None:
    assert loads(json.dumps(value)) == value
    assert loads(json.dumps(value, ensure_ascii=False, indent=1)) == value
    assert flaw(value) is None


@given(st.dictionaries(st.text(), JSON, max_size=4), st.booleans())
def test_a_valid_call_is_read(arguments: dict[str, Any], is_quoted: bool) -> None:
    written = json.dumps(json.dumps(arguments)) if is_quoted else json.dumps(arguments)
    assert read_call(call(written), "c") == ToolCall(id="c", name="press", arguments=arguments)


@settings(max_examples=500)
@given(ANY_TEXT, st.booleans())
def test_reading_is_total_and_says_one_thing(text: str, is_closed: bool) -> None:
    for written in (text, call(text), call(json.dumps(text))):
        read = read_call(written, "c", is_closed=is_closed)
        assert read == read_call(written, "c", is_closed=is_closed)
        if isinstance(read, ToolCall):
            assert is_closed
            assert flaw(read.arguments) is None
            json.dumps(read.to_message(), ensure_ascii=False, allow_nan=False).encode()
        else:
            assert "\n" not in read.error_message
            assert len(read.error_message) < 300


@pytest.mark.parametrize(
    ("text", "kind", "told"),
    [
        ("", "invalid_json", 'expected {"name": <tool>, "arguments": {...}}'),
        ("{'name': 1}", "invalid_json", "not valid JSON at character 2, near \"{'name': 1}\": Expecting property name"),
        (call("{}") + call("{}"), "invalid_json", "Extra data"),
        ("[1]", "malformed", "got a list; expected"),
        ("3", "malformed", "got a number; expected"),
        ('{"arguments": {}}', "missing_name", "the name is null; expected"),
        ('{"name": "", "arguments": {}}', "missing_name", "the name is empty; expected"),
        ('{"name": ["press"], "arguments": {}}', "missing_name", "the name is a list; expected"),
        (call("true"), "invalid_arguments", "arguments: got true or false, expected an object"),
        (call('"three"'), "invalid_arguments", "arguments: got a string, expected an object"),
        (call('"[1]"'), "invalid_arguments", "arguments: got a list, expected an object"),
        (call('{"digit": 1, "digit": 2}'), "duplicate_key", "key 'digit' is there twice; expected every key once"),
        ('{"name": "a", "name": "b"}', "duplicate_key", "key 'name' is there twice"),
        (call('"{\\"d\\": 1, \\"d\\": 2}"'), "duplicate_key", "in the arguments: key 'd' is there twice"),
        (call('{"digit": NaN}'), "not_finite", "got the number NaN; expected a finite one"),
        (call('{"digit": [-Infinity]}'), "not_finite", "got the number -Infinity"),
        (call('{"digit": 1e999}'), "not_finite", "got the number 1e999"),
        (call(f'{{"digit": {"9" * 5000}}}'), "number_too_long", "got a number of more than 1000 digits"),
        (call('{"digit": "\\ud800"}'), "half_character", "half a character (a lone surrogate)"),
        (call('{"\\udfff": 1}'), "half_character", "half a character"),
        ('{"name": "\\ud800", "arguments": {}}', "half_character", "in the name: "),
        (call(nested(MAX_DEPTH + 1)), "too_deep", "nested deeper than 32 levels"),
        (call(nested(5000)), "too_deep", "nested deeper than 32 levels"),
        ("[" * 100_000, "too_large", "larger than 64 KB"),
        (call(f'{{"digit": "{"x" * MAX_BYTES}"}}'), "too_large", "larger than 64 KB; write less"),
        (call(f'{{"digit": "{"é" * (MAX_BYTES // 2)}"}}'), "too_large", "larger than 64 KB"),
    ],
)
def test_what_is_refused_is_told(text: str, kind: str, told: str) -> None:
    bad = read_call(text, "c")
    assert isinstance(bad, BadCall)
    assert bad.error_type == kind
    assert told in bad.error_message


@pytest.mark.parametrize(
    "arguments", [nested(MAX_DEPTH - 1), f'{{"d": -{"9" * MAX_DIGITS}}}', '{"d": "\\ud83d\\ude00"}', '{"d": 1e308}']
)
def test_what_is_just_within_the_limits_is_read(arguments: str) -> None:
    assert isinstance(read_call(call(arguments), "c"), ToolCall)


def test_a_call_cut_off_is_not_executed_even_if_it_is_whole() -> None:
    bad = read_call(call("{}"), "c", is_closed=False)
    assert isinstance(bad, BadCall)
    assert bad.error_type == "unclosed"


def test_a_flaw_voids_nothing_beside_it() -> None:
    read = loads('[{"a": NaN}, {"b": 1, "b": 2}, {"c": 3}]')
    assert isinstance(read[0]["a"], Flaw)
    assert isinstance(read[1], Flaw)
    assert read[2] == {"c": 3}


def test_what_was_never_json_is_refused_too() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for value, kind in ((deep, "too_deep"), (math.inf, "not_finite"), (10**5000, "number_too_long")):
        bad = make_call("press", {"digit": value}, "c", "")
        assert isinstance(bad, BadCall)
        assert bad.error_type == kind


def test_a_text_too_large_is_not_kept() -> None:
    assert bad_call("c", "x" * 10**6, "too_large", "m").raw == "x" * 1000 + "..."


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        ('{"error": {"type": "timeout", "message": "late"}}', "timeout"),
        ('{"error": "boom"}', "tool_error"),
        ("[1]", "tool_error"),
        ("boom", "tool_error"),
        ("[" * 100_000, "tool_error"),
    ],
)
def test_the_kind_of_an_error_is_read_from_what_was_told(told: str, kind: str) -> None:
    assert error_type(told) == kind
