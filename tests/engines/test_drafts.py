from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from agentgrpo.engines.attention import Ints
from agentgrpo.engines.drafts import CONTEXT, Drafts


def learn(drafts: Drafts, tokens: list[int]) -> None:
    """Let the table see a sequence, token by token as an engine samples it."""
    for i in range(CONTEXT, len(tokens)):
        drafts.learn(np.array([tokens[i - CONTEXT : i]]), np.array([tokens[i]]))


def guess(drafts: Drafts, tokens: list[int], most: int = 7) -> list[int]:
    return [int(t) for t in drafts.guess(np.array([tokens[-CONTEXT:]]), most)[0]]


def test_what_was_never_seen_is_not_guessed() -> None:
    assert guess(Drafts(), [1, 2, 3]) == [-1] * 7


def test_what_came_twice_is_guessed_as_far_as_it_went() -> None:
    drafts, call = Drafts(), [7, 8, 9, 10, 11, 12]
    learn(drafts, call)
    assert guess(drafts, call[:3]) == [-1] * 7  # once may be chance
    learn(drafts, call)
    assert guess(drafts, call[:3]) == [10, 11, 12, -1, -1, -1, -1]
    assert guess(drafts, call[:3], most=2) == [10, 11]


def test_what_changes_is_guessed_no_longer_and_then_anew() -> None:
    drafts = Drafts()
    for last in (4, 4, 4, 5, 5):
        learn(drafts, [1, 2, 3, last])
    assert guess(drafts, [1, 2, 3], most=1) == [-1]
    for _ in range(3):
        learn(drafts, [1, 2, 3, 5])
    assert guess(drafts, [1, 2, 3], most=1) == [5]


@given(st.lists(st.lists(st.integers(-1, 5), min_size=CONTEXT, max_size=CONTEXT), min_size=1, max_size=20))
def test_many_are_guessed_at_once_as_one_by_one(contexts: list[list[int]]) -> None:
    drafts = Drafts()
    for _ in range(4):
        learn(drafts, [5, 4, 3, 2, 1, 0, 1, 2, 3, 4, 5])
    together: Ints = drafts.guess(np.array(contexts), 4)
    assert together.tolist() == [guess(drafts, context, 4) for context in contexts]
