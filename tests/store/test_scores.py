from __future__ import annotations

import math
from pathlib import Path

import pytest

from agentgrpo.errors import RunError
from agentgrpo.store import EpisodeReader, EpisodeStore, Rescore, Score, rescores_of, scores_of, write_scores
from tests.store.strategies import make_key, make_trajectory

RESCORE = Rescore(reward="mine:score", source_sha256="ab", weights={"brevity": 0.5}, made_at=1.75e9)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "episodes.sqlite"
    with EpisodeStore(path) as store:
        store.add_sync([make_trajectory(make_key(sample=i)) for i in range(3)])
    return path


def test_scores_stand_beside_the_score_an_episode_ended_with(path: Path) -> None:
    first = Score(episode=1, reward=0.25, success=False, terms={"outcome": 0.0, "brevity": 0.5})
    broken = Score(episode=2, reward=None, success=None, problem="raised KeyError: 'x'")
    assert write_scores(path, RESCORE, [first, broken]) == 1
    second = Score(episode=1, reward=1.0, success=True)
    assert write_scores(path, RESCORE, [second]) == 2
    assert [(r.id, s) for r, s in scores_of(path, 1)] == [(1, first), (2, second)]
    assert [s for _, s in scores_of(path, 2)] == [broken]
    assert scores_of(path, 3) == []
    assert [(r.id, r.reward, r.weights) for r in rescores_of(path)] == [
        (1, "mine:score", {"brevity": 0.5}),
        (2, "mine:score", {"brevity": 0.5}),
    ]
    with EpisodeReader(path) as reader:
        assert [row.reward for row in reader.list()] == [1.0] * 3


def test_scores_go_with_their_episode_and_never_without_one(path: Path) -> None:
    write_scores(path, RESCORE, [Score(episode=1, reward=0.5, success=False)])
    with EpisodeStore(path) as store:
        store.add_sync([make_trajectory(make_key(sample=0))])  # replaces the first
    assert scores_of(path, 1) == []
    write_scores(path, RESCORE, [Score(episode=1, reward=0.5, success=False)])
    assert scores_of(path, 1) == []


def test_a_score_that_is_no_number_is_kept_as_unknown(path: Path) -> None:
    write_scores(path, RESCORE, [Score(episode=1, reward=math.nan, success=None, problem="\ud800 sk-" + "a1" * 20)])
    ((_, score),) = scores_of(path, 1)
    assert (score.reward, score.problem) == (None, "? [redacted]")


def test_a_file_that_cannot_be_written_is_one_message(path: Path) -> None:
    path.unlink()
    path.mkdir()
    with pytest.raises(RunError, match="cannot be written"):
        write_scores(path, RESCORE, [])
