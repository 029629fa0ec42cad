from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agentgrpo.jsonpointer import below, parts


def test_slashes_and_tildes_in_names_are_escaped() -> None:
    assert below("/orders", "a/b~c~1") == "/orders/a~1b~0c~01"
    assert parts("/orders/a~1b~0c~01") == ["orders", "a/b~c~1"]
    assert parts("") == []
    assert parts("#/$defs/x") == ["$defs", "x"]


@given(st.lists(st.text()))
def test_what_was_put_together_comes_apart_again(names: list[str]) -> None:
    pointer = ""
    for name in names:
        pointer = below(pointer, name)
    assert parts(pointer) == names
