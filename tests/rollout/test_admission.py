"""Places: first come, first served, and fewer of them when the engine preempts."""

from __future__ import annotations

import asyncio

import pytest

from agentgrpo.rollout.admission import Admission


async def test_places_are_given_in_order_and_never_too_many() -> None:
    admission, order, most = Admission(3), [], 0

    async def visit(number: int) -> None:
        nonlocal most
        await admission.enter()
        order.append(number)
        most = max(most, admission.inside)
        await asyncio.sleep(0.001 * (number % 4))
        admission.leave()

    await asyncio.gather(*(visit(number) for number in range(20)))
    assert order == list(range(20))
    assert (most, admission.inside) == (3, 0)


@pytest.mark.parametrize("is_its_turn", [False, True])
async def test_who_is_cancelled_while_waiting_loses_no_place(is_its_turn: bool) -> None:
    admission = Admission(1)
    await admission.enter()
    first, second = (asyncio.create_task(admission.enter()) for _ in range(2))
    await asyncio.sleep(0)
    if is_its_turn:
        admission.leave()
    first.cancel()
    if not is_its_turn:
        admission.leave()
    await asyncio.wait_for(second, 1)
    assert first.cancelled()
    assert admission.inside == 1


def test_the_limit_falls_once_per_crowd_and_rises_again() -> None:
    admission = Admission(10)
    assert admission.answer(1)  # at once
    assert admission.limit == 8
    assert not any(admission.answer(2 + n) for n in range(7))  # they were let in before
    assert admission.answer(20)
    assert admission.limit == 6
    for _ in range(1000):
        assert not admission.answer(20)
    assert admission.limit == 10


def test_one_place_is_always_left() -> None:
    admission = Admission(2)
    for preemptions in range(1, 50):
        admission.answer(preemptions)
    assert admission.limit == 1


def test_an_engine_that_never_preempts_changes_nothing() -> None:
    admission = Admission(4)
    assert not any(admission.answer(0) for _ in range(100))
    assert admission.limit == admission.most == 4
