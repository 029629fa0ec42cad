"""The pacing policy alone: its rules, and that together they keep the bound and never need to drop a group."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgrpo.rollout.pacing import Pacing, Standing


def pacing(batch: int = 4, *, staleness: int = 1, steps: int = 100, group: int = 8) -> Pacing:
    return Pacing(batch=batch, group_size=group, max_staleness=staleness, steps=steps)


@pytest.mark.parametrize(
    ("version", "started", "idle", "room"),
    [
        (0, 0, 1000, 8),  # (0 + 1 + 1) * 4
        (0, 5, 1000, 3),
        (0, 8, 1000, 0),
        (3, 8, 1000, 12),
        (0, 0, 16, 2),  # two groups of 8 fit
        (0, 0, 17, 3),  # the last begins with one episode
        (0, 0, 0, 0),
        (99, 400, 1000, 0),  # the run needs no more
        (98, 396, 1000, 4),
    ],
)
def test_groups_start_as_the_formula_says(version: int, started: int, idle: int, room: int) -> None:
    assert pacing().room(version, started, idle=idle) == room


def test_the_oldest_complete_groups_are_taken() -> None:
    groups = [Standing(number=n, version=2, is_complete=n != 3) for n in range(8, 0, -1)]
    assert pacing().choose(groups, version=2) == [1, 2, 4, 5]
    assert pacing(batch=8).choose(groups, version=2) is None


def ended(*numbers: int, version: int) -> list[Standing]:
    return [Standing(number=number, version=version, is_complete=True) for number in numbers]


def test_a_group_that_would_be_too_stale_is_waited_for() -> None:
    old = Standing(number=0, version=1, is_complete=False)
    new = ended(*range(1, 8), version=2)
    assert pacing(staleness=2).choose([old, *new], version=2) == [1, 2, 3, 4]
    assert not pacing(staleness=2).is_held_up([old, *new], version=2)
    assert pacing(staleness=1).choose([old, *new], version=2) is None
    assert pacing(staleness=1).is_held_up([old, *new], version=2)
    assert pacing(staleness=1).choose([replace(old, is_complete=True), *new], version=2) == [0, 1, 2, 3]


def test_a_queue_that_would_be_too_long_is_not_built_up() -> None:
    """Four old groups and two a step: the next step alone could not take them all in time."""
    old = [Standing(number=n, version=0, is_complete=n == 0) for n in range(4)]
    rules, new = pacing(batch=2, staleness=2), ended(6, 7, version=1)
    assert rules.choose([*old, *new], version=1) is None
    old[3] = replace(old[3], is_complete=True)
    assert rules.choose([*old, *new], version=1) == [0, 3]


def test_old_groups_go_first_whatever_their_number() -> None:
    due = ended(9, version=2)
    assert pacing().choose([*ended(0, 1, 2, 3, version=3), *due], version=3) == [0, 1, 2, 9]


@given(
    seed=st.integers(0, 2**32),
    batch=st.integers(1, 6),
    staleness=st.integers(0, 4),
    places=st.integers(1, 40),
    group=st.integers(1, 8),
)
def test_no_group_is_dropped_and_none_is_too_stale(
    seed: int, batch: int, staleness: int, places: int, group: int
) -> None:
    """Groups end in any order at any time; steps are made whenever they can be."""
    rng, rules, steps = random.Random(seed), pacing(batch, staleness=staleness, steps=12, group=group), 12
    version = started = 0
    begun: dict[int, int] = {}
    complete: set[int] = set()
    trained: list[int] = []
    while version < steps:
        idle = places - group * (len(begun) - len(complete))
        for _ in range(rules.room(version, started, idle=idle)):
            begun[started] = version
            started += 1
        standing = [Standing(number=n, version=p, is_complete=n in complete) for n, p in begun.items()]
        chosen = rules.choose(standing, version)
        if chosen is not None and rng.random() < 0.7:
            assert len(chosen) == batch
            assert all(version - begun.pop(number) <= staleness for number in chosen)
            complete -= set(chosen)
            trained += chosen
            version += 1
            live = {p for n, p in begun.items() if n not in complete} | {version}
            assert len(live) <= staleness + 1
        elif still_open := sorted(begun.keys() - complete):
            complete.add(rng.choice(still_open))
    assert sorted(trained) == list(range(started)) == list(range(steps * batch))
