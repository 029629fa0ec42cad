"""The ideal a rollout is compared with, against makespans worked out by hand and against bounds that always hold."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgrpo.chat import Chat
from agentgrpo.types import Policy, Sampling
from bench.ideal import makespan
from bench.workplace import Cost, ModelledEngine, Plan, Script, at_once

COST = Cost(step=1.0, sequence=0.5, stride=1)  # a tick with n sequences takes 1 + n / 2
TURNS = st.lists(st.tuples(st.integers(1, 5), st.floats(0, 20)), min_size=1, max_size=4)
PLANS = st.lists(st.builds(lambda turns: Plan(turns=tuple(turns)), TURNS), min_size=1, max_size=8)


def plan(*turns: tuple[int, float]) -> Plan:
    return Plan(turns=turns)


def test_one_episode_takes_its_ticks_and_its_tools() -> None:
    assert makespan([plan((2, 10.0), (1, 0.0))], COST, 4) == pytest.approx(2 * 1.5 + 10 + 1.5)


def test_two_at_once_share_ticks_and_two_in_turn_do_not() -> None:
    twice = [plan((3, 0.0)), plan((3, 0.0))]
    assert makespan(twice, COST, 2) == pytest.approx(3 * 2.0)
    assert makespan(twice, COST, 1) == pytest.approx(2 * 3 * 1.5)


def test_a_shorter_one_leaves_the_batch_and_another_takes_its_place() -> None:
    three = [plan((1, 0.0)), plan((3, 0.0)), plan((1, 0.0))]
    assert makespan(three, COST, 2) == pytest.approx(2.0 + 2.0 + 1.5)


def test_an_answer_joins_at_the_next_tick() -> None:
    # The first one's tool ends at 2.0 + 0.5, in the middle of the second one's tick that ends at 3.5.
    assert makespan([plan((1, 0.5), (1, 0.0)), plan((3, 0.0))], COST, 2) == pytest.approx(2.0 + 1.5 + 2.0)


async def test_waiting_to_be_asked_takes_nothing_off_the_engines_time(tiny_chat: Chat) -> None:
    cost = Cost(step=0.004, stride=64)  # every reply is one tick
    engine = ModelledEngine(script=Script(tiny_chat, at_once, turns=4), cost=cost)
    seconds = []
    for _ in range(2):
        clock = time.perf_counter()
        await engine.generate([1], Sampling(max_tokens=1), Policy(), session="s")
        seconds.append(time.perf_counter() - clock)
        await asyncio.sleep(0.05)
    await engine.close()
    assert min(seconds) >= cost.seconds(1)


@given(PLANS, st.integers(1, 9))
def test_it_is_between_the_longest_episode_alone_and_all_in_a_row(plans: list[Plan], places: int) -> None:
    alone = [makespan([one], COST, 1) for one in plans]
    found = makespan(plans, COST, places)
    assert max(alone) - 1e-9 <= found <= sum(alone) + 1e-9


@given(PLANS)
def test_one_place_plays_one_after_the_other(plans: list[Plan]) -> None:
    assert makespan(plans, COST, 1) == pytest.approx(sum(makespan([one], COST, 1) for one in plans))
