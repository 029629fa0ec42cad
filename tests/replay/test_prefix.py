"""The state of a turn, had again: what follows from there is what followed then."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from agentgrpo.activity import Activity
from agentgrpo.blocking import run_blocking
from agentgrpo.replay.compare import compare
from agentgrpo.replay.environments import Repetitions, as_stored
from agentgrpo.replay.prefix import Diverged, Prefix
from agentgrpo.replay.recorded import Recorded, open_recorded
from agentgrpo.replay.said import said_in
from agentgrpo.rollout.manager import Start
from agentgrpo.store import EpisodeReader, RunDirectory
from agentgrpo.types import EpisodeKey, Sampling, Trajectory
from tests.replay.runs import oracle_run

ADDERS = "tests.replay.adders"


def episodes(run: RunDirectory) -> list[Trajectory]:
    with EpisodeReader(run.episodes) as reader:
        return [reader.get(row.id).trajectory for row in reader.list(limit=1000, descending=False)]


class Entries(Repetitions):
    """Plays recorded episodes again from a turn on, several at a time."""

    async def enter(self, parent: Trajectory, turns: int, count: int) -> tuple[list[Trajectory], Prefix]:
        said = said_in(parent)
        prefix = Prefix(parent, turns, said)
        start = Start(seed=parent.seed, begin=prefix, given=tuple(said[turns:]))
        keys = [EpisodeKey(phase="fork", step=1, task_id=parent.key.task_id, sample=sample) for sample in range(count)]
        task = self.recorded.task(parent.key.task_id)
        policy, sampling = parent.policy, Sampling(max_tokens=0)
        played = await asyncio.gather(
            *(self.episode(key, task, policy=policy, sampling=sampling, start=start) for key in keys)
        )
        return [as_stored(trajectory) for trajectory in played], prefix


def enter(
    recorded: Recorded, parent: Trajectory, turns: int, count: int = 1, activity: Activity | None = None
) -> tuple[list[Trajectory], Prefix]:
    async def play() -> tuple[list[Trajectory], Prefix]:
        async with Entries(recorded, activity=activity) as entries:
            return await entries.enter(parent, turns, count)

    return run_blocking(play())


def check_every_turn(run: RunDirectory, count: int) -> int:
    """Enter every episode at each of its turns: by playing, by a snapshot, and see that the rest is what it was."""
    recorded, entered = open_recorded(run.path), 0

    async def play() -> int:
        total = 0
        async with Entries(recorded) as entries:
            for parent in episodes(run):
                for turns in range(len(parent.turns)):
                    played, prefix = await entries.enter(parent, turns, count)
                    assert [compare(parent, trajectory) for trajectory in played] == [None] * count
                    # What was taken over stands in the record as it was, what followed was played.
                    assert all(t.turns[:turns] == parent.turns[:turns] for t in played)
                    assert prefix.restored == (count - 1 if turns else 0)
                    total += 1
        return total

    entered = run_blocking(play())
    assert entered > len(episodes(run))
    return entered


def test_at_each_turn_the_state_is_what_it_was(tmp_path: Path) -> None:
    check_every_turn(oracle_run(tmp_path, "shop", tasks=4, samples=1), 2)


@pytest.mark.slow
def test_at_each_turn_of_a_hundred_episodes_the_state_is_what_it_was(tmp_path: Path) -> None:
    run = oracle_run(tmp_path, "shop", tasks=50, samples=2)
    assert check_every_turn(run, 3) >= 300


@pytest.mark.parametrize(
    ("name", "args", "restored"),
    [
        ("Saved", {}, 3),
        ("InProcess", {}, 3),
        ("Adder", {}, 0),  # takes no snapshots
        ("Forgetful", {}, 0),  # a snapshot after restoring is another one
        ("Unrestorable", {}, 0),
        ("Saved", {"late_from": 2}, 0),  # its tools have changed, which no snapshot holds
    ],
)
def test_a_snapshot_is_used_where_it_can_be_trusted(
    name: str, args: dict[str, Any], restored: int, tmp_path: Path
) -> None:
    run = oracle_run(tmp_path, f"{ADDERS}:{name}", tasks=1, samples=1, env_args=args)
    (parent,) = episodes(run)
    told: list[str] = []
    played, prefix = enter(open_recorded(run.path), parent, 4, count=4, activity=Activity(told.append))
    assert [compare(parent, trajectory) for trajectory in played] == [None] * 4
    assert prefix.restored == restored
    assert bool(told) == (name == "Unrestorable")


def test_a_state_that_cannot_be_had_is_said_with_what_differs(tmp_path: Path) -> None:
    run = oracle_run(tmp_path, f"{ADDERS}:Adder", tasks=1, samples=1, env_args={"clock_from": 3})
    (parent,) = episodes(run)
    recorded = open_recorded(run.path)
    played, _ = enter(recorded, parent, 2)
    assert len(played[0].turns) == len(parent.turns)
    with pytest.raises(Diverged, match=r"messages of turn 3 would differ(.|\n)*expected .* at \d+") as caught:
        enter(recorded, parent, 3, count=2)
    assert (caught.value.divergence.turn, caught.value.divergence.what) == (3, "messages")


def test_an_environment_that_ends_before_the_turn_cannot_be_entered_there(tmp_path: Path) -> None:
    run = oracle_run(tmp_path, f"{ADDERS}:Adder", tasks=1, samples=1)
    (parent,) = episodes(run)
    recorded = open_recorded(run.path, overrides=["env_args.ends_at=1"])
    with pytest.raises(Diverged):
        enter(recorded, parent, 3)


def test_plain_text_environments_can_be_entered_too(tmp_path: Path) -> None:
    run = oracle_run(tmp_path, f"{ADDERS}:Plain", tasks=1, samples=1)
    (parent,) = episodes(run)
    played, _ = enter(open_recorded(run.path), parent, 2, count=2)
    assert [compare(parent, trajectory) for trajectory in played] == [None, None]
