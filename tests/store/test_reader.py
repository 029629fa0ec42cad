from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentgrpo.errors import UserError
from agentgrpo.store import EpisodeFilter, EpisodeReader, EpisodeStore, parse_key, schema, tables
from agentgrpo.store.reader import ORDERS
from agentgrpo.types import EpisodeKey, StopReason
from tests.store.strategies import keys, make_key, make_trajectory

REWARDS = [None, 0.0, 0.25, 0.25, 1.0]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three steps of four tasks of five samples, and an evaluation of two."""
    path = tmp_path_factory.mktemp("run") / "episodes.sqlite"
    with EpisodeStore(path) as store:
        for step in range(3):
            for task in range(4):
                group = [make_key(step, f"shop-{task}", sample) for sample in range(5)]
                store.add_sync([make_trajectory(k, reward=r) for k, r in zip(group, REWARDS, strict=True)])
        store.add_sync(
            [make_trajectory(make_key(2, f"heldout-{i}", 0, phase="eval"), env_id="other") for i in range(2)]
        )
    return path


@pytest.fixture
def reader(path: Path) -> Iterator[EpisodeReader]:
    with EpisodeReader(path) as reader:
        yield reader


@pytest.mark.parametrize(
    ("where", "count"),
    [
        ({}, 62),
        ({"phase": "eval"}, 2),
        ({"step": 1}, 20),
        ({"task_id": "shop-2"}, 15),
        ({"task_id": "heldout-*"}, 2),
        ({"task_id": "shop"}, 0),
        ({"env_id": "other"}, 2),
        ({"stop_reason": StopReason.FAILED}, 12),
        ({"failed": True}, 12),
        ({"failed": False}, 50),
        ({"success": True}, 14),
        ({"success": False}, 36),
        ({"min_reward": 0.25}, 38),
        ({"max_reward": 0.0}, 12),
        ({"min_reward": 0.1, "max_reward": 0.9, "step": 0}, 8),
        ({"contains": "ada love"}, 62),
        ({"contains": "love ada"}, 0),
        ({"contains": "engine is gone"}, 12),
        ({"contains": '4821" OR "x'}, 0),
        ({"policy_version": 3, "filter_reason": "truncated"}, 0),
    ],
)
def test_filters(reader: EpisodeReader, where: dict[str, Any], count: int) -> None:
    chosen = EpisodeFilter(**where)
    assert reader.count(chosen) == len(reader.list(chosen, limit=100)) == count


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("descending", [True, False])
def test_pages_make_up_the_whole_list(reader: EpisodeReader, order: str, descending: bool) -> None:
    whole = reader.list(order=order, descending=descending, limit=100)
    pages, after = [], None
    while page := reader.list(order=order, descending=descending, limit=7, after=after):
        pages += page
        after = page[-1].id
    assert pages == whole
    known = [getattr(row, order) for row in whole if getattr(row, order) is not None]
    assert known == sorted(known, reverse=descending)
    assert len(whole) == 62
    assert all(getattr(row, order) is None for row in whole[len(known) :])  # the unknown comes last


def test_pages_of_a_filter_walk_the_index(reader: EpisodeReader, path: Path) -> None:
    where = EpisodeFilter(step=1)
    first = reader.list(where, order="reward", limit=6)
    second = reader.list(where, order="reward", limit=100, after=first[-1].id)
    assert len({row.id for row in [*first, *second]}) == 20
    sql = "SELECT id FROM episodes WHERE (reward, id) < (0.5, 9) ORDER BY reward DESC, id DESC LIMIT 5"
    with closing(sqlite3.connect(path)) as db:
        plan = " ".join(row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {sql}"))
    assert "episodes_by_reward" in plan
    assert "TEMP B-TREE" not in plan


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text())
def test_any_text_may_be_searched_for(reader: EpisodeReader, text: str) -> None:
    assert reader.count(EpisodeFilter(contains=text)) in (0, 12, 50, 62)


def test_an_unknown_order_names_the_known(reader: EpisodeReader) -> None:
    with pytest.raises(UserError, match=r"sorted by 'rewards'\. Did you mean 'reward'"):
        reader.list(order="rewards")
    with pytest.raises(UserError, match="no column 'stop'"):
        reader.tally("stop")


def test_a_page_after_an_episode_that_was_replaced(reader: EpisodeReader) -> None:
    with pytest.raises(UserError, match="was replaced"):
        reader.list(order="reward", after=10**6)
    assert len(reader.list(order="id", after=10**6, limit=5)) == 5


def test_get_takes_a_number_a_key_or_the_text_of_either(reader: EpisodeReader) -> None:
    row = reader.list(limit=1)[0]
    found = {reader.get(which).row for which in (row.id, str(row.id), row.key, str(row.key))}
    assert found == {row}


@pytest.mark.parametrize(
    ("which", "message"),
    [
        (10**6, "numbered 1 to 62"),
        ("train/1/shop-1/9", "there are: train/1/shop-1/0, train/1/shop-1/1"),
        ("train/99/shop-1/0", "numbered 1 to 62"),
        ("shop-1", "names no episode: expected a row number, or phase/step/task/sample"),
        ("test/1/shop-1/0", "names no episode"),
    ],
)
def test_an_episode_that_is_not_there(reader: EpisodeReader, which: int | str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        reader.get(which)


@given(keys)
def test_the_text_of_a_key_is_read_back(key: EpisodeKey) -> None:
    assert parse_key(str(key)) == key


def test_group_steps_and_tallies(reader: EpisodeReader) -> None:
    assert [row.reward for row in reader.group(make_key(1, "shop-3", 2))] == REWARDS
    evaluation = reader.steps()[2]
    assert (evaluation.phase, evaluation.step, evaluation.episodes) == ("eval", 2, 2)
    step = reader.steps()[0]
    assert (step.episodes, step.scored, step.reward, step.successes, step.failed) == (20, 16, 6.0, 4, 4)
    assert (step.turns, step.tool_calls, step.tool_errors) == (80, 60, 20)
    assert reader.tally("stop_reason") == {"answered": 50, "failed": 12}
    spent = reader.spent()
    assert (spent["tokens"], spent["sampled_tokens"]) == (62 * 15, 62 * 8)


def test_a_reader_sees_what_is_added_while_it_is_open(tmp_path: Path) -> None:
    path = tmp_path / "episodes.sqlite"
    with EpisodeStore(path) as store, EpisodeReader(path) as reader:
        assert reader.count() == 0
        with pytest.raises(UserError, match="holds no episodes yet"):
            reader.get(1)
        store.add_sync([make_trajectory()])
        assert reader.count() == 1


def test_a_reader_cannot_write(reader: EpisodeReader) -> None:
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader._connection.execute("DELETE FROM episodes")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_run_on_read_only_media_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "episodes.sqlite"
    with EpisodeStore(path) as store:
        store.add_sync([make_trajectory()])
    tmp_path.chmod(0o500)
    with EpisodeReader(path) as reader:
        assert reader.count() == 1
    tmp_path.chmod(0o700)


def test_a_python_without_full_text_search_finds_text_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = (sql for sql in tables.MIGRATIONS[0] if sql != tables.FTS_MERGES)
    plain = tuple(tables.PLAIN_TABLE if sql == tables.FTS_TABLE else sql for sql in first)
    monkeypatch.setattr(schema.migrate, "__defaults__", ((plain, *tables.MIGRATIONS[1:]),))
    path = tmp_path / "episodes.sqlite"
    with EpisodeStore(path) as store:
        store.add_sync([make_trajectory()])
    with EpisodeReader(path) as reader:
        assert reader.count(EpisodeFilter(contains="ADA love")) == 1
        assert reader.count(EpisodeFilter(contains="nobody")) == 0
