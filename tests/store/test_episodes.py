from __future__ import annotations

import asyncio
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentgrpo.errors import RunError
from agentgrpo.store import EpisodeFilter, EpisodeReader, EpisodeStore, TrainingRow, episodes
from agentgrpo.types import Parent, Policy, Span, Trajectory
from tests.store.strategies import UNIT, make_key, make_trajectory, trajectories

ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "episodes.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[EpisodeStore]:
    with EpisodeStore(path) as store:
        yield store


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(trajectories(), max_size=3, unique_by=lambda t: t.key))
def test_what_is_stored_comes_back_equal(store: EpisodeStore, path: Path, batch: list[Trajectory]) -> None:
    store.add_sync(batch)
    with EpisodeReader(path) as reader:
        for trajectory in batch:
            assert reader.get(trajectory.key).trajectory == trajectory


async def test_an_acknowledged_episode_is_there_for_a_second_connection(store: EpisodeStore, path: Path) -> None:
    await store.add([make_trajectory()])
    with EpisodeReader(path) as reader:
        assert reader.count() == 1


async def test_many_at_once_are_all_stored_and_share_transactions(store: EpisodeStore, path: Path) -> None:
    batches = [[make_trajectory(make_key(sample=i, task_id=f"t{j}")) for i in range(4)] for j in range(100)]
    await asyncio.gather(*(store.add(batch) for batch in batches))
    with EpisodeReader(path) as reader:
        assert reader.count() == 400
        assert {row.key for row in reader.list(limit=1000)} == {t.key for batch in batches for t in batch}


async def test_an_episode_made_again_replaces_the_first(store: EpisodeStore, path: Path) -> None:
    await store.add([make_trajectory(reward=0.0)])
    await store.add([make_trajectory(reward=1.0)])
    with EpisodeReader(path) as reader:
        (row,) = reader.list()
        assert (row.reward, row.id) == (1.0, 2)
        (step,) = reader.steps()
        assert (step.episodes, step.reward, step.successes) == (1, 1.0, 1)


async def test_forks_are_listed_but_are_none_of_what_the_run_played(store: EpisodeStore, path: Path) -> None:
    fork = make_trajectory(make_key(phase="fork"), parent=Parent(episode=1, turns=2), policy=Policy(version=9))
    await store.add([make_trajectory(), fork])
    with EpisodeReader(path) as reader:
        assert [row.phase for row in reader.list()] == ["fork", "train"]
        assert reader.count(EpisodeFilter(parent=1)) == reader.count(EpisodeFilter(phase="fork")) == 1
        assert reader.tally("stop_reason") == {"answered": 1}
        assert reader.spent()["tokens"] == 15
        assert (len(reader.of_policy(3)), reader.of_policy(9)) == (1, {})
    episodes.forget_after(path, 3)
    with EpisodeReader(path) as reader:
        assert reader.count(EpisodeFilter(phase="fork")) == 1


async def test_an_episode_can_be_given_the_number_it_had(store: EpisodeStore, path: Path) -> None:
    await store.add([make_trajectory()])
    store.add_sync([episodes.Numbered(id=40, trajectory=make_trajectory(make_key(sample=1)))])
    await store.add([make_trajectory(make_key(sample=2))])
    with EpisodeReader(path) as reader:
        assert [(row.id, row.sample) for row in reader.list()] == [(41, 2), (40, 1), (1, 0)]


async def test_one_bad_batch_does_not_take_its_neighbours_along(store: EpisodeStore, path: Path) -> None:
    bad = make_trajectory(spans=(Span(parent=-1, token_ids=(2**40,), sampled=False),))
    good = [make_trajectory(make_key(sample=i)) for i in range(1, 9)]
    results = await asyncio.gather(
        store.add([good[0], bad]), *(store.add([t]) for t in good[1:]), return_exceptions=True
    )
    assert isinstance(results[0], OverflowError)
    assert results[1:] == [None] * 7
    with EpisodeReader(path) as reader:
        assert {row.sample for row in reader.list()} == set(range(2, 9))


async def test_a_caller_that_gives_up_does_not_lose_the_episode(store: EpisodeStore, path: Path) -> None:
    adding = asyncio.create_task(store.add([make_trajectory()]))
    await asyncio.sleep(0)
    adding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await adding
    store.close()
    with EpisodeReader(path) as reader:
        assert reader.count() == 1


async def test_training_is_noted_on_the_episode(store: EpisodeStore, path: Path) -> None:
    first, second = (make_trajectory(make_key(sample=i)) for i in range(2))
    await store.add([first, second])
    values = [-i * UNIT for i in range(first.sampled_count)]
    await store.set_training(
        [
            TrainingRow(key=first.key, advantage=0.5, logprobs=values, entropies=[0.25] * len(values)),
            TrainingRow(key=second.key, filter_reason="truncated"),
        ]
    )
    with EpisodeReader(path) as reader:
        stored = reader.get(first.key)
        assert (stored.row.advantage, stored.row.filter_reason, stored.learner_logprobs) == (0.5, None, tuple(values))
        assert stored.entropies == (0.25,) * len(values)
        assert reader.get(second.key).row.filter_reason == "truncated"
        assert reader.get(second.key).entropies is None
        assert reader.steps()[0].filtered == 1


async def test_the_learner_s_logprobs_find_their_spans_in_a_fork(store: EpisodeStore, path: Path) -> None:
    def span(parent: int, size: int) -> Span:
        return Span(parent=parent, token_ids=(0,) * size, sampled=True, logprobs=(0.0,) * size, policy_version=0)

    trajectory = make_trajectory(spans=(span(-1, 1), span(0, 2), span(0, 3), span(1, 1)))
    await store.add([trajectory])
    # sequences(): leaf 2 by way of 0, then leaf 3 by way of 1.
    values = [0.0, -1, -1, -1, -2, -2, -3]
    entropies = [value * value for value in values]
    await store.set_training([TrainingRow(key=trajectory.key, logprobs=values, entropies=entropies)])
    with EpisodeReader(path) as reader:
        stored = reader.get(trajectory.key)
    spans = stored.learner_logprobs_of_spans()
    assert stored.entropies_of_spans() == {i: tuple(v * v for v in part) for i, part in spans.items()}
    assert spans == {0: (0.0,), 2: (-1.0,) * 3, 1: (-2.0,) * 2, 3: (-3.0,)}


async def test_training_on_an_episode_that_was_never_stored_is_an_error(store: EpisodeStore) -> None:
    with pytest.raises(RunError, match="train/3/shop-12/0 was trained on but is not in"):
        await store.set_training([TrainingRow(key=make_key(), advantage=1.0)])


async def test_rewards_that_are_not_finite_are_unknown_to_the_index(store: EpisodeStore, path: Path) -> None:
    await store.add([make_trajectory(make_key(sample=i), reward=r) for i, r in enumerate([math.nan, math.inf, 0.5])])
    with EpisodeReader(path) as reader:
        assert [row.reward for row in reader.list(order="reward")] == [0.5, None, None]
        assert reader.steps()[0].reward == 0.5
        assert reader.get(make_key(sample=1)).trajectory.reward == math.inf


def test_closing_writes_what_is_queued_and_may_be_repeated(path: Path) -> None:
    store = EpisodeStore(path)
    store.add_sync([make_trajectory()])
    store.close()
    store.close()
    with pytest.raises(RunError, match="the store is closed"):
        store.add_sync([make_trajectory()])
    with EpisodeReader(path) as reader:
        assert reader.count() == 1


async def test_a_full_queue_holds_the_caller_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(episodes, "QUEUE_BATCHES", 1)
    with EpisodeStore(path) as store:
        await asyncio.gather(*(store.add([make_trajectory(make_key(sample=i))]) for i in range(50)))
    with EpisodeReader(path) as reader:
        assert reader.count() == 50


async def test_a_file_that_cannot_be_written_says_so(path: Path) -> None:
    with EpisodeStore(path) as store:
        store._connection.execute("PRAGMA max_page_count = 1")  # as a full disk would
        with pytest.raises(RunError, match="Free space or fix the folder"):
            await store.add([make_trajectory(info={"noise": os.urandom(100_000).hex()})])
        store._connection.execute("PRAGMA max_page_count = 1000000")
        await store.add([make_trajectory()])


WRITER = """
import sys
from agentgrpo.store import EpisodeStore
from tests.store.strategies import make_key, make_trajectory
store = EpisodeStore(sys.argv[1])
for i in range(10_000):
    store.add_sync([make_trajectory(make_key(task_id=str(i), sample=s)) for s in range(4)])
    print(i, flush=True)
"""


def test_a_kill_loses_nothing_that_was_acknowledged(path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    acknowledged = [int(process.stdout.readline()) for _ in range(20)]
    process.send_signal(signal.SIGKILL)
    acknowledged += [int(line) for line in process.stdout.read().splitlines()]
    process.stdout.close()
    process.wait()
    with EpisodeReader(path) as reader:
        steps = reader.steps()
        for i in acknowledged:
            for sample in range(4):
                key = make_key(task_id=str(i), sample=sample)
                assert reader.get(key).trajectory == make_trajectory(key)
        assert steps[0].episodes == reader.count()
        assert reader.count() % 4 == 0  # a batch is stored whole or not at all
