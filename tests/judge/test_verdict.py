from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgrpo.judge.verdict import LONGEST_REASON, Malformed, rank_rewards, read_ranking, read_score


@pytest.mark.parametrize(
    "text",
    [
        '{"reason": "good", "score": 0.75}',
        '  {"score": 0.75, "reason": "good"}\n',
        '```json\n{"reason": "good", "score": 0.75}\n```',
        '<think>maybe {"score": 1}</think>\n{"reason": "good", "score": 0.75}',
    ],
)
def test_a_score_is_read_from_nothing_but_its_object(text: str) -> None:
    verdict = read_score(text)
    assert (verdict.score, verdict.reason) == (0.75, "good")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0.75",
        "I would say 0.75",
        'Sure: {"score": 0.75}',
        '{"score": 0.75} {"score": 1}',
        '{"score": 0.2, "score": 1.0}',
        '{"score": 1.5}',
        '{"score": -0.1}',
        '{"score": NaN}',
        '{"score": true}',
        '{"score": "0.75"}',
        '{"score": null}',
        '{"score": 0.75, "rank": 1}',
        '{"reason": 3, "score": 0.75}',
        '{"reason": "only"}',
        "[0.75]",
        '<think>{"score": 1}',
        "[" * 100_000,
    ],
)
def test_what_is_no_score_is_refused(text: str) -> None:
    with pytest.raises(Malformed):
        read_score(text)


def test_a_long_reason_is_cut() -> None:
    assert len(read_score(json.dumps({"reason": "x" * 9999, "score": 1})).reason) == LONGEST_REASON


@pytest.mark.parametrize(
    ("ranking", "places"),
    [
        ([[2], [1, 3]], ((2,), (1, 3))),
        ([2, [1, 3]], ((2,), (1, 3))),
        ([[1, 2, 3]], ((1, 2, 3),)),
        ([3, 2, 1], ((3,), (2,), (1,))),
    ],
)
def test_a_ranking_has_every_attempt_once(ranking: Any, places: Any) -> None:
    assert read_ranking(json.dumps({"reason": "", "ranking": ranking}), 3).places == places


@pytest.mark.parametrize(
    "ranking",
    [
        [],
        [[1], [2]],
        [[1], [2], [3], [4]],
        [[1], [2], [3], [3]],
        [[1], [2], []],
        [[0], [1], [2]],
        [["1"], [2], [3]],
        [[1.0], [2], [3]],
        [[True], [2], [3]],
        [[[1]], [2], [3]],
        "1 > 2 > 3",
        {"1": 1, "2": 2, "3": 3},
        None,
    ],
)
def test_what_ranks_not_every_attempt_once_is_refused(ranking: Any) -> None:
    with pytest.raises(Malformed):
        read_ranking(json.dumps({"reason": "", "ranking": ranking}), 3)


@pytest.mark.parametrize(
    ("places", "sizes", "rewards"),
    [
        ([[1], [2]], [1, 1], [1.0, 0.0]),
        ([[1, 2]], [1, 1], [0.5, 0.5]),
        ([[2], [1, 3]], [1, 1, 1], [0.25, 1.0, 0.25]),
        ([[3], [1], [2]], [1, 1, 1], [0.5, 0.0, 1.0]),
        ([[1], [2]], [3, 1], [2 / 3, 0.0]),  # three episodes that are the same share the best rank
    ],
)
def test_a_rank_becomes_the_share_of_the_others_it_beats(
    places: list[list[int]], sizes: list[int], rewards: list[float]
) -> None:
    assert rank_rewards(places, sizes) == pytest.approx(rewards)


@given(st.lists(st.integers(1, 3), min_size=2, max_size=8), st.randoms(use_true_random=False))
def test_whatever_the_ties_the_mean_of_a_group_is_a_half(sizes: list[int], rng: Any) -> None:
    numbers = list(range(1, len(sizes) + 1))
    rng.shuffle(numbers)
    cuts = sorted(rng.sample(range(1, len(numbers)), rng.randrange(len(numbers))))
    places = [numbers[start:end] for start, end in zip([0, *cuts], [*cuts, len(numbers)], strict=True)]
    rewards = rank_rewards(places, sizes)
    assert all(0.0 <= reward <= 1.0 for reward in rewards)
    weighted = sum(reward * size for reward, size in zip(rewards, sizes, strict=True))
    assert weighted / sum(sizes) == pytest.approx(0.5)


def test_one_episode_cannot_be_ranked() -> None:
    with pytest.raises(ValueError, match="1 episodes cannot be ranked"):
        rank_rewards([[1]], [1])


@given(st.text() | st.text(alphabet='{}[]",:0123456789scorenrki ', max_size=60))
def test_no_answer_raises_anything_else(text: str) -> None:
    for read in (read_score, lambda text: read_ranking(text, 2)):
        try:
            read(text)
        except Malformed as error:
            assert str(error)
