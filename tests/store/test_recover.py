from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from agentgrpo.store import (
    EpisodeFilter,
    EpisodeReader,
    EpisodeStore,
    Rescore,
    Score,
    TrainingRow,
    TrainStep,
    read_train_steps,
    recover,
    scores_of,
    write_scores,
)
from agentgrpo.store.episodes import forget_after
from agentgrpo.store.recover import mend
from agentgrpo.types import Parent
from tests.store.strategies import make_key, make_trajectory

COUNT = 60


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of many episodes, in several pages, closed."""
    path = tmp_path / "episodes.sqlite"
    with EpisodeStore(path) as store:
        keys = [make_key(sample=sample) for sample in range(COUNT)]
        store.add_sync([make_trajectory(key) for key in keys])
        store.add_sync(
            [TrainingRow(key=key, advantage=float(key.sample), logprobs=[-0.5], entropies=[1.0]) for key in keys]
        )
    return path


def test_a_sound_file_is_left_as_it_is(path: Path, tmp_path: Path) -> None:
    before = path.read_bytes()
    assert mend(path) is None
    assert mend(tmp_path / "absent.sqlite") is None
    assert path.read_bytes() == before


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.9])
def test_a_file_cut_off_is_set_aside_and_what_can_be_read_stays(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(b"no database" if share == 0 else data[: int(len(data) * share)])
    told = mend(path)
    assert told is not None
    assert told.startswith("episodes.sqlite was damaged (")
    (aside,) = path.parent.glob("episodes.damaged-*.sqlite")
    assert aside.name in told
    with EpisodeReader(path) as reader:
        rows = reader.list(limit=1000)
        assert f"{len(rows)} episodes could be read" in told
        assert rows or share < 0.9
        assert all(row.advantage == row.sample for row in rows)
        assert all(reader.get(row.id).learner_logprobs == (-0.5,) for row in rows)
        assert all(reader.get(row.id).entropies == (1.0,) for row in rows)
    assert mend(path) is None


def test_a_damaged_file_of_an_earlier_version_is_read_as_well(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("ALTER TABLE payloads DROP COLUMN entropies")
        connection.execute("PRAGMA user_version = 3")
    assert rescue(path) == COUNT
    with EpisodeReader(path) as reader:
        stored = [reader.get(row.id) for row in reader.list(limit=1000)]
    assert {(each.learner_logprobs, each.entropies) for each in stored} == {((-0.5,), None)}


def test_what_stays_keeps_its_number_its_forks_and_what_stands_beside_it(path: Path) -> None:
    fork = make_trajectory(make_key(phase="fork"), parent=Parent(episode=3, turns=1))
    step = TrainStep(step=3, groups=(), adapter_sha256="ab")
    rescore = Rescore(reward="mine:score", source_sha256=None, weights={}, made_at=0.0)
    with EpisodeStore(path) as store:
        store.add_sync([make_trajectory(make_key(sample=0)), step, fork])  # the first again: number 1 is gone
    write_scores(path, rescore, [Score(episode=3, reward=0.5, success=False), Score(episode=4, reward=1, success=True)])
    with EpisodeReader(path) as reader:
        before = {row.id: row.key for row in reader.list(limit=1000)}
    assert rescue(path) == COUNT + 1
    with EpisodeReader(path) as reader:
        assert {row.id: row.key for row in reader.list(limit=1000)} == before
        (row,) = reader.list(EpisodeFilter(parent=3))
        assert row.phase == "fork"
    assert read_train_steps(path) == {3: step}
    assert [score.reward for i in (3, 4) for _, score in scores_of(path, i)] == [0.5, 1.0]


def rescue(path: Path) -> int:
    """Replace a file by what can be read of it, as for a damaged one."""
    aside = path.rename(path.with_name("aside.sqlite"))
    return recover._copy(aside, path)


def test_one_page_of_zeros_costs_few_episodes(path: Path) -> None:
    data = bytearray(path.read_bytes())
    middle = len(data) // 2 // 4096 * 4096
    data[middle : middle + 4096] = bytes(4096)
    path.write_bytes(data)
    if mend(path) is not None:
        with EpisodeReader(path) as reader:
            assert reader.count() > 0


def test_a_log_cut_off_loses_only_what_is_at_its_end(tmp_path: Path) -> None:
    path = tmp_path / "live.sqlite"
    store = EpisodeStore(path)
    for sample in range(10):
        store.add_sync([make_trajectory(make_key(sample=sample))])
    log = path.with_name(path.name + "-wal").read_bytes()
    copy = tmp_path / "copy.sqlite"
    copy.write_bytes(path.read_bytes())
    copy.with_name(copy.name + "-wal").write_bytes(log[: len(log) * 2 // 3])
    store.close()
    assert mend(copy) is None
    with EpisodeReader(copy) as reader:
        assert [row.sample for row in reader.list(descending=False)] == list(range(reader.count()))
        assert 0 < reader.count() < 10


def test_episodes_of_later_policies_are_forgotten_unreadable_ones_not_reused(path: Path) -> None:
    with EpisodeReader(path) as reader:
        version = reader.list(limit=1)[0].policy_version
        assert len(reader.of_policy(version)) == COUNT
        assert reader.of_policy(version + 1) == {}
    assert forget_after(path, version) == 0
    assert forget_after(path, version - 1) == COUNT
    with EpisodeReader(path) as reader:
        assert (reader.count(), reader.steps()[0].episodes) == (0, 0)
