from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgrpo.viewer.alignment import align, canonical


def call(name: str, **arguments: Any) -> Any:
    return {"content": "", "tool_calls": [{"id": f"call_{id(arguments)}", "name": name, "arguments": arguments}]}


A, B, C = call("a"), call("b"), call("c")


@pytest.mark.parametrize(
    ("episodes", "divergence"),
    [
        ([[A, B], [A, B]], None),
        ([[A, B], [A, C]], 1),
        ([[A], [A, C]], 1),
        ([[B], [A], [A]], 0),
        ([[], [A]], 0),
        ([], None),
        ([[A]], None),
    ],
)
def test_the_first_turn_at_which_not_all_do_the_same(episodes: Any, divergence: int | None) -> None:
    assert align(episodes).divergence == divergence


def test_those_that_went_the_same_way_have_the_same_number_and_the_most_common_is_0() -> None:
    found = align([[B, A], [A, A], [A, C], [A, A]])
    assert found.branches == ((1, 1), (0, 0), (0, 2), (0, 0))


def test_ids_and_the_order_of_arguments_say_nothing() -> None:
    assert canonical(call("f", x=1, y=2)) == canonical(call("f", y=2, x=1))
    assert canonical(call("f", x=1)) != canonical(call("f", x=2))


@given(st.lists(st.lists(st.sampled_from([A, B, C]), max_size=5), max_size=5))
def test_the_same_number_means_the_same_way(episodes: Any) -> None:
    found = align(episodes)
    for i, one in enumerate(episodes):
        for j, other in enumerate(episodes):
            for turn in range(min(len(one), len(other))):
                is_same = [canonical(x) for x in one[: turn + 1]] == [canonical(x) for x in other[: turn + 1]]
                assert (found.branches[i][turn] == found.branches[j][turn]) is is_same
