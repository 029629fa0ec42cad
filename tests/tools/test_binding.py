from __future__ import annotations

import json

import pytest

from agentgrpo.errors import EnvError
from agentgrpo.tooling import as_tool
from agentgrpo.tools.binding import bind


def add(desk: str, count: int, note: str = "") -> str:
    """Add things to a desk."""
    return f"{desk} {count} {note}"


def test_a_bound_argument_is_filled_in_and_out_of_sight() -> None:
    tool = bind(as_tool(add), desk="d1")
    assert tool.parameters == {
        "type": "object",
        "properties": {"count": {"type": "integer"}, "note": {"default": "", "type": "string"}},
        "required": ["count"],
    }
    assert tool.call({"count": 2}) == ("d1 2 ", False)
    assert as_tool(add).call({"desk": "d2", "count": 2}) == ("d2 2 ", False)


def test_a_model_cannot_give_it() -> None:
    error = json.loads(bind(as_tool(add), desk="d1").call({"desk": "d2", "count": 1}).content)["error"]
    assert error == {"type": "invalid_arguments", "message": "argument 'desk': expected only count, note"}


def test_bindings_add_up_and_a_bound_value_is_checked_too() -> None:
    both = bind(bind(as_tool(add), desk="d1"), count=3)
    assert both.parameters == {"type": "object", "properties": {"note": {"default": "", "type": "string"}}}
    assert both.call({"note": "x"}) == ("d1 3 x", False)
    assert "expected a valid integer" in bind(as_tool(add), count="x").call({"desk": "d"}).content


def test_an_argument_that_does_not_exist_is_the_authors_mistake() -> None:
    with pytest.raises(EnvError, match=r"has no argument 'dest'; it has desk, count, note\. Did you mean 'desk'"):
        bind(as_tool(add), dest="d1")
