from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from agentgrpo.errors import EnvError, ToolError, ToolFailure, ToolTimeout
from agentgrpo.tooling import MAX_MESSAGE, as_tool, encodable, error_result, is_tool, one_line, tool


class Line(BaseModel):
    item: str
    count: int = 1


class Node(BaseModel):
    children: list[Node] = []


class Size(Enum):
    SMALL = "s"
    LARGE = "l"


@dataclass
class Receipt:
    total: int
    lines: list[str]


def order(
    lines: list[Line],
    size: Literal["s", "l"],
    qty: Annotated[int, Field(ge=1)] = 1,
    schema: str | None = None,
    _note: str = "",
) -> str:
    """Order things.

    Longer text.

    Args:
        lines: What to
            order.
        size: How big.
    """
    return f"{lines[0].item} {size} {qty} {schema} {_note}"


def error_of(content: str) -> dict[str, str]:
    error: dict[str, str] = json.loads(content)["error"]
    return error


def test_schema_comes_from_signature_and_docstring() -> None:
    schema = as_tool(order).schema
    assert schema == {
        "type": "function",
        "function": {
            "name": "order",
            "description": "Order things.\n\nLonger text.",
            "parameters": {
                "type": "object",
                "properties": {
                    "lines": {
                        "items": {
                            "properties": {"item": {"type": "string"}, "count": {"default": 1, "type": "integer"}},
                            "required": ["item"],
                            "type": "object",
                        },
                        "type": "array",
                        "description": "What to order.",
                    },
                    "size": {"enum": ["s", "l"], "type": "string", "description": "How big."},
                    "qty": {"default": 1, "minimum": 1, "type": "integer"},
                    "schema": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
                    "_note": {"default": "", "type": "string"},
                },
                "required": ["lines", "size"],
            },
        },
    }


def test_arguments_are_validated_and_coerced() -> None:
    result = as_tool(order).call({"lines": [{"item": "pen"}], "size": "s", "qty": "3", "schema": "x", "_note": "n"})
    assert result == ("pen s 3 x n", False)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"size": "s"}, "argument 'lines' is missing"),
        (
            {"lines": [], "size": "s", "qtty": 1},
            "argument 'qtty': expected only lines, size, qty, schema, _note. Did you",
        ),
        ({"lines": [], "size": "s", "qtty": 1}, "Did you mean 'qty'?"),
        ({"lines": [], "size": "s", "qty": 0}, "argument 'qty': got 0, expected greater than or equal to 1"),
        ({"lines": [{"item": 3}], "size": "s"}, "argument 'lines.0.item': got 3, expected a valid string"),
        ({"lines": [{"item": "a", "b": 3}], "size": 1}, "argument 'size': got 1, expected 's' or 'l'"),
        ({"lines": [], "size": "m"}, "argument 'size': got 'm', expected 's' or 'l'"),
    ],
)
def test_wrong_arguments_are_told_in_one_line(arguments: dict[str, Any], told: str) -> None:
    result = as_tool(order).call(arguments)
    error = error_of(result.content)
    assert result.is_error
    assert error["type"] == "invalid_arguments"
    assert told in error["message"]
    assert "\n" not in error["message"]


@pytest.mark.parametrize(
    ("note", "kind"),
    [
        ("\ud800", "half_character"),
        (float("nan"), "not_finite"),
        (float("-inf"), "not_finite"),
        (10**1000, "number_too_long"),
        ([[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]], "too_deep"),
    ],
)
def test_what_no_tool_should_act_on_is_refused_before_it(note: Any, kind: str) -> None:
    assert error_of(as_tool(order).call({"lines": [], "size": "s", "_note": note}).content)["type"] == kind


class Weight(BaseModel):
    kilos: float


def weigh(kilos: float, count: int = 1, parts: list[float] | None = None, box: Weight | None = None) -> str:
    return f"{kilos} {count} {parts} {box}"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"kilos": "nan"}, "argument 'kilos': got 'nan', expected a finite number"),
        ({"kilos": "-Infinity"}, "expected a finite number"),
        ({"kilos": "1e999"}, "expected a finite number"),
        ({"kilos": 1, "parts": [1, "inf"]}, "argument 'parts.1': got 'inf', expected a finite number"),
        ({"kilos": 1, "box": {"kilos": "nan"}}, "got the number nan; expected a finite one"),
        ({"kilos": 1, "count": "9" * 1001}, "got a number of more than 1000 digits"),
    ],
)
def test_a_text_stands_for_no_number_that_would_be_refused(arguments: dict[str, Any], told: str) -> None:
    error = error_of(as_tool(weigh).call(arguments).content)
    assert error["type"] == "invalid_arguments"
    assert told in error["message"]
    assert as_tool(weigh).call({"kilos": "1.5", "count": "2", "box": {"kilos": "3"}}) == ("1.5 2 None kilos=3.0", False)


def test_a_default_of_pydantics_says_what_it_says_in_a_model() -> None:
    def wait(minutes: int = Field(3, ge=1, description="How long."), why: str = Field(alias="reason")) -> str:
        return f"{minutes} {why}"

    assert as_tool(wait).parameters == {
        "type": "object",
        "properties": {
            "minutes": {"type": "integer", "default": 3, "minimum": 1, "description": "How long."},
            "why": {"type": "string"},
        },
        "required": ["why"],
    }
    assert as_tool(wait).call({"why": "rain"}) == ("3 rain", False)
    assert "greater than or equal to 1" in as_tool(wait).call({"why": "rain", "minutes": 0}).content


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]


def test_a_schema_refers_to_nothing() -> None:
    def feed(pet: Annotated[Cat | Dog, Field(discriminator="kind")]) -> str:
        return pet.kind

    assert "$defs" not in json.dumps(as_tool(feed).parameters)
    assert as_tool(feed).call({"pet": {"kind": "dog"}}).content == "dog"


@pytest.mark.parametrize("name", ["", "<tool_call>", "a b", "a\n", "x" * 129, "<|im_end|>", "\ud800", "a'b"])
def test_a_name_no_model_could_copy_is_refused(name: str) -> None:
    with pytest.raises(EnvError, match="expected at most 128 letters, digits or"):
        replace(as_tool(order), name=name)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(alphabet=st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(["lines", "size", "qty", "schema", "other"]) | st.text(), JSON, max_size=4))
def test_no_argument_raises(arguments: dict[str, Any]) -> None:
    result = as_tool(order).call(arguments)
    result.content.encode()
    if result.is_error:
        assert len(error_of(result.content)["message"]) < MAX_MESSAGE + 50


def test_huge_and_deep_arguments_do_not_raise() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for value in (10**5000, "x" * 10**6, deep, float("nan")):
        assert as_tool(order).call({"lines": value, "size": "s"}).is_error


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "ok"),
        ("", ""),
        ("as is", "as is"),
        ([], "[]"),
        (True, "true"),
        ({"a": [1, "é"]}, '{"a": [1, "é"]}'),
        (Receipt(3, ["a"]), '{"total": 3, "lines": ["a"]}'),
        ([Line(item="pen")], '[{"item": "pen", "count": 1}]'),
        (Size.SMALL, '"s"'),
        ("half \ud800", "half ?"),
    ],
)
def test_results_become_text(value: Any, text: str) -> None:
    def give() -> Any:
        return value

    assert as_tool(give).call({}) == (text, False)


def test_long_output_keeps_head_and_tail() -> None:
    @tool(max_output=10)
    def talk() -> str:
        return "a" * 50 + "b" * 50

    assert as_tool(talk).call({}).content == "aaaaa\n[... 90 characters left out ...]\nbbbbb"


def test_the_three_ways_a_tool_can_fail() -> None:
    def act(how: str) -> str:
        if how == "no":
            raise ToolError("not\npossible")
        if how == "late":
            raise ToolTimeout("still busy")
        if how == "down":
            raise ToolFailure("backend is down")
        raise KeyError(how)

    assert error_of(as_tool(act).call({"how": "no"}).content) == {"type": "tool_error", "message": "not possible"}
    assert error_of(as_tool(act).call({"how": "late"}).content) == {"type": "timeout", "message": "still busy"}
    with pytest.raises(ToolFailure, match="backend is down"):
        as_tool(act).call({"how": "down"})
    with pytest.raises(ToolFailure, match=r"tool 'act' raised KeyError: 'bug' \(test_tooling.py:\d+\)"):
        as_tool(act).call({"how": "bug"})


def test_marked_functions_stay_functions_and_methods_bind() -> None:
    class Counter:
        count = 0

        @tool(name="increase")
        def add(self, by: int) -> int:
            self.count += by
            return self.count

    first, second = Counter(), Counter()
    assert is_tool(first.add)
    assert not is_tool(order)
    assert first.add(2) == 2
    assert as_tool(first.add).name == "increase"
    assert as_tool(first.add).call({"by": 3}).content == "5"
    assert as_tool(second.add).call({"by": 1}).content == "1"
    assert as_tool(first.add).parameters is as_tool(second.add).parameters  # computed once


def test_unusable_signatures_are_told() -> None:
    def untyped(x) -> str:  # type: ignore[no-untyped-def]
        return str(x)

    def many(*names: str) -> str:
        return str(names)

    def unknown(x: Missing) -> str:  # type: ignore[name-defined]  # noqa: F821
        return str(x)

    def opaque(x: asyncio.Event) -> str:
        return str(x)

    def recursive(node: Node) -> str:
        return str(node)

    cases: list[tuple[Callable[..., Any], str]] = [
        (untyped, "parameter 'x' has no type"),
        (many, "cannot be passed by name"),
        (unknown, "name 'Missing' is not defined"),
        (opaque, "use types that have a JSON schema"),
        (recursive, "Node contains itself"),
    ]

    class Adder:
        def __call__(self, x: int) -> str:
            return str(x)

    cases += [(functools.partial(order, size="s"), "is no function"), (Adder(), "is no function")]
    for function, told in cases:
        with pytest.raises(EnvError, match=told):
            as_tool(function)
    with pytest.raises(EnvError, match="nothing could stop it"):
        tool(deadline=1.0)(untyped)


@given(st.text(alphabet=st.characters()))
def test_messages_are_one_encodable_line(text: str) -> None:
    line = one_line(text, 20)
    line.encode()
    assert len(line.splitlines()) <= 1
    assert error_result("x", text).is_error
    assert encodable(encodable(text)) == encodable(text)
