from __future__ import annotations

from pathlib import Path

from agentgrpo.store import EpisodeStore, TrainedGroup, TrainingRow, TrainStep, read_train_steps
from agentgrpo.store.episodes import forget_after
from agentgrpo.types import Group, Task
from tests.store.strategies import make_key, make_trajectory


def step(number: int, sha: str = "ab") -> TrainStep:
    groups = tuple(TrainedGroup(step=number - 1, task_id=f"shop-{i}", episodes=i) for i in (7, 3))
    return TrainStep(step=number, groups=groups, adapter_sha256=sha)


def test_a_train_step_keeps_its_groups_in_the_order_they_were_trained(tmp_path: Path) -> None:
    path, key = tmp_path / "episodes.sqlite", make_key()
    with EpisodeStore(path) as store:
        store.add_sync([make_trajectory(key), TrainingRow(key=key, advantage=1.0), step(2), step(1)])
    assert read_train_steps(path) == {1: step(1), 2: step(2)}
    assert list(read_train_steps(path)) == [1, 2]


def test_a_step_made_again_replaces_the_first(tmp_path: Path) -> None:
    path = tmp_path / "episodes.sqlite"
    with EpisodeStore(path) as store:
        store.add_sync([step(1, "old")])
        store.add_sync([step(1, "new")])
    assert read_train_steps(path) == {1: step(1, "new")}


def test_steps_that_a_resumed_run_makes_again_are_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "episodes.sqlite"
    with EpisodeStore(path) as store:
        store.add_sync([step(1), step(2), step(3)])
    forget_after(path, 2)
    assert list(read_train_steps(path)) == [1, 2]


def test_of_a_group_it_keeps_the_step_it_was_drawn_for() -> None:
    trajectories = tuple(make_trajectory(make_key(5, "shop-1", i)) for i in range(2))
    made = TrainStep.of(6, [Group(task=Task(id="shop-1", row={}), trajectories=trajectories)], "ab")
    assert made.groups == (TrainedGroup(step=5, task_id="shop-1", episodes=2),)
