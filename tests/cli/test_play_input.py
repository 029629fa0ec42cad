from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgrpo.cli.play_input import Action, Command, Form, NotUnderstood, fill, parse_value, understand
from agentgrpo.types import JsonObject


def tool(name: str, /, **properties: JsonObject) -> JsonObject:
    required = [key for key, schema in properties.items() if "default" not in schema]
    parameters = {"type": "object", "properties": properties, "required": required}
    return {"type": "function", "function": {"name": name, "description": name, "parameters": parameters}}


TOOLS = [
    tool("find", name={"type": "string"}),
    tool("pay", amount={"type": "integer"}, note={"anyOf": [{"type": "string"}, {"type": "null"}], "default": None}),
    tool("look"),
    tool("state", of={"type": "string"}),
]


def call(line: str) -> Any:
    """Return (name, arguments) of the call a line makes."""
    asked = understand(line, TOOLS, is_text=False)
    assert isinstance(asked, Action)
    (made,) = json.loads(asked.text)["tool_calls"]
    return made["name"], made["arguments"]


@pytest.mark.parametrize(
    ("line", "made"),
    [
        ('find name="Sam Cox"', ("find", {"name": "Sam Cox"})),
        ("1 name=Sam", ("find", {"name": "Sam"})),
        ("find name=12", ("find", {"name": "12"})),
        ("pay amount=12", ("pay", {"amount": 12})),
        ("pay amount=12 note=twice", ("pay", {"amount": 12, "note": "twice"})),
        ('pay {"amount": "much"}', ("pay", {"amount": "much"})),
        ("find Sam Cox", ("find", {"name": "Sam Cox"})),
        ("pay amout=x", ("pay", {"amout": "x"})),
        ('{"name": "find", "arguments": {"name": "x"}}', ("find", {"name": "x"})),
        ("look", ("look", {})),
        ("  look  ", ("look", {})),
        ("3", ("look", {})),
    ],
)
def test_a_line_makes_a_call(line: str, made: Any) -> None:
    assert call(line) == made


def test_other_lines() -> None:
    assert understand("say all done", TOOLS, is_text=False) == Action(text='{"content": "all done", "tool_calls": []}')
    assert understand("raw <tool_call>{", TOOLS, is_text=False) == Action(text="<tool_call>{")
    assert understand('<tool_call>{"name": 1}', TOOLS, is_text=False) == Action(text='<tool_call>{"name": 1}')
    message = '{"content": "", "tool_calls": []}'
    assert understand(message, TOOLS, is_text=False) == Action(text=message)
    assert understand("find", TOOLS, is_text=False) == Form(function=TOOLS[0]["function"])
    assert understand("undo", TOOLS, is_text=False) == Command(name="undo", rest="")
    assert understand("schema pay", TOOLS, is_text=False) == Command(name="schema", rest="pay")


def test_a_tool_wins_over_a_command_of_its_name_unless_there_is_a_slash() -> None:
    assert isinstance(understand("state", TOOLS, is_text=False), Form)
    assert understand("/state", TOOLS, is_text=False) == Command(name="state", rest="")


def test_where_actions_are_text_all_is_one_but_for_the_slash() -> None:
    assert understand("undo it", (), is_text=True) == Action(text="undo it")
    assert understand("/undo", (), is_text=True) == Command(name="undo", rest="")
    assert understand("/say x", (), is_text=True) == Action(text="/say x")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("fnd", "no tool or command 'fnd'. Did you mean 'find'"),
        ("fin", "Did you mean 'find'"),
        ("udno", "Did you mean 'undo'"),
        (
            "pay 12",
            '\'12\' is not NAME=VALUE; expected pay amount=... note=..., pay {"amount": ..., "note": ...}, or',
        ),
        ("pay amount=much", "'much' is not integer"),
        ('pay note="Sam', "No closing quotation"),
        ('pay {"amount": }', "these are no arguments"),
        ("99", "no tool or command '99'"),
    ],
)
def test_what_cannot_be_understood_is_told(line: str, told: str) -> None:
    with pytest.raises(NotUnderstood) as caught:
        understand(line, TOOLS, is_text=False)
    assert told in str(caught.value)


def answers(*lines: str) -> tuple[Any, list[str], Any]:
    """Return a reader of these lines, what it was asked, and where to tell."""
    typed: Iterator[str] = iter(lines)
    said: list[str] = []

    def read(prompt: str) -> str:
        said.append(prompt)
        return next(typed)

    return read, said, said.append


def test_the_form_asks_for_each_argument_until_it_fits() -> None:
    read, said, tell = answers("much", "", "12", "")
    action = fill(TOOLS[1]["function"], read, tell)
    assert action is not None
    assert json.loads(action.text)["tool_calls"][0]["arguments"] == {"amount": 12}
    assert said == [
        "  amount (integer): ",
        "'much' is not integer (or /cancel)",
        "  amount (integer): ",
        "'' is not integer (or /cancel)",
        "  amount (integer): ",
        "  note (text or null, may be left out): ",
    ]


def test_the_form_names_choices_and_defaults_and_lets_go() -> None:
    read, said, tell = answers("b", "")
    wanted = tool("pick", which={"enum": ["a", "b"], "type": "string"}, count={"type": "integer", "default": 3})
    action = fill(wanted["function"], read, tell)
    assert action is not None
    assert json.loads(action.text)["tool_calls"][0]["arguments"] == {"which": "b"}
    assert said == ["  which (a or b): ", "  count (integer, may be left out = 3): "]
    read, _, tell = answers("/cancel")
    assert fill(wanted["function"], read, tell) is None


@pytest.mark.parametrize(
    ("text", "schema", "value"),
    [
        ("12", {"type": "string"}, "12"),
        ('"12"', {"type": "string"}, "12"),
        ('""', {"type": "string"}, ""),
        ('"', {"type": "string"}, '"'),
        ("[1, 2]", {"type": "array"}, [1, 2]),
        ("null", {"type": ["integer", "null"]}, None),
        ("x", {}, "x"),
        ("b", {"enum": ["a", "b"]}, "b"),
        ("2", {"enum": [1, 2]}, 2),
    ],
)
def test_values_are_read_as_their_schema_asks(text: str, schema: JsonObject, value: Any) -> None:
    assert parse_value(text, schema) == value


@given(st.text(max_size=40), st.booleans())
def test_no_line_is_a_surprise(line: str, is_text: bool) -> None:
    if not line.strip():
        return
    try:
        asked = understand(line, TOOLS, is_text=is_text)
    except NotUnderstood as error:
        assert str(error)
    else:
        assert isinstance(asked, Action | Command | Form)
