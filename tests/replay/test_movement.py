"""What another reward would have changed, in numbers that can be checked by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgrpo.replay.movement import MOST_MOVED, Pair, most_moved, movements, spearman
from agentgrpo.store import EpisodeReader, EpisodeStore
from agentgrpo.store.rows import EpisodeRow
from tests.store.strategies import make_key, make_trajectory

VALUES = st.lists(st.integers(-3, 3).map(float), min_size=2, max_size=9)


@pytest.mark.parametrize(
    ("one", "other", "value"),
    [
        ((1, 2, 3), (10, 20, 30), 1.0),
        ((1, 2, 3), (3, 2, 1), -1.0),
        ((1, 2, 3, 4), (2, 1, 4, 3), 0.6),  # 1 - 6 * sum of d^2 / (n (n^2 - 1)), without ties
        ((0, 0, 1), (0, 1, 1), 0.5),  # ranks 1.5 1.5 3 and 1 2.5 2.5: Pearson's of those
        ((1, 1), (0, 1), None),
        ((), (), None),
    ],
)
def test_the_rank_correlation_is_spearmans(
    one: tuple[float, ...], other: tuple[float, ...], value: float | None
) -> None:
    assert spearman(one, other) == (None if value is None else pytest.approx(value))


@given(VALUES, st.randoms(use_true_random=False))
def test_the_rank_correlation_is_symmetric_bounded_and_blind_to_scale(values: list[float], random: object) -> None:
    other = sorted(values, key=lambda _: random.random())  # type: ignore[attr-defined]
    found = spearman(values, other)
    assert found == (None if len(set(values)) == 1 else pytest.approx(spearman(other, values)))
    assert found is None or -1 - 1e-12 <= found <= 1 + 1e-12
    assert found is None or spearman([v * 3 + 1 for v in values], other) == pytest.approx(found)


@pytest.fixture
def rows(tmp_path: Path) -> list[EpisodeRow]:
    """Two groups of three and an evaluation of one."""
    keys = [make_key(1, task, sample) for task in ("a", "b") for sample in range(3)]
    keys.append(make_key(1, "c", phase="eval"))
    with EpisodeStore(tmp_path / "episodes.sqlite") as store:
        store.add_sync([make_trajectory(key) for key in keys])
    with EpisodeReader(tmp_path / "episodes.sqlite") as reader:
        return list(reader.list(limit=100, descending=False))


def pair(row: EpisodeRow, before: float, after: float) -> Pair:
    return Pair(row=row, before=before, after=after, success_before=before == 1, success_after=after == 1)


def test_groups_and_phases_are_kept_apart(rows: list[EpisodeRow]) -> None:
    before, after = (0, 0, 0, 0, 1, 1, 1), (0, 1, 0, 0.5, 0.5, 0.5, 0)
    train, held = movements(pair(row, b, a) for row, b, a in zip(rows, before, after, strict=True))
    assert (train.phase, train.episodes, train.groups, train.gained, train.lost) == ("train", 6, 2, 1, 1)
    assert (train.rank_correlation, train.ranked_groups) == (None, 0)
    assert (train.reward_before, train.reward_after) == pytest.approx((1 / 3, 2.5 / 6))
    assert (train.success_before, train.success_after) == pytest.approx((1 / 3, 1 / 6))
    assert (held.phase, held.groups, held.success_before, held.success_after) == ("eval", 0, 1.0, 0.0)


def test_the_correlation_is_the_mean_over_groups_that_have_ranks(rows: list[EpisodeRow]) -> None:
    before, after = (1, 2, 3, 1, 2, 3), (1, 2, 3, 3, 2, 1)
    (move,) = movements(pair(row, b, a) for row, b, a in zip(rows, before, after, strict=False))
    assert (move.rank_correlation, move.ranked_groups) == (0.0, 2)


def test_those_that_move_most_come_first_and_those_that_stay_do_not(rows: list[EpisodeRow]) -> None:
    moved = most_moved([pair(rows[0], 0, 0.5), pair(rows[1], 1, 1), pair(rows[2], 1, 0), pair(rows[3], 0, 1)])
    assert [p.row.id for p in moved] == [rows[2].id, rows[3].id, rows[0].id]
    assert len(most_moved([pair(rows[0], 0, 1)] * 30)) == MOST_MOVED
