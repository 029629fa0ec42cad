from __future__ import annotations

import random
from email.utils import formatdate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentgrpo.tools.http.retries import LONGEST_PAUSE, Later, retry_after, retrying


async def pauses(error: Later, *, repeats: int = 12, seconds: float = 1e9, seed: int = 0) -> list[float]:
    """Return how long would have been paused before each repetition of a call that always fails."""
    slept: list[float] = []

    async def sleep(duration: float) -> None:
        slept.append(duration)

    loop = retrying(
        repeats=repeats, seconds=seconds, is_idempotent=True, rng=random.Random(seed), before_pause=lambda state: None
    ).copy(sleep=sleep)

    async def fail() -> None:
        raise error

    with pytest.raises(Later):
        await loop(fail)
    return slept


async def test_pauses_have_full_jitter_and_a_cap() -> None:
    every = [await pauses(Later("x", kind="x"), seed=seed) for seed in range(200)]
    for number, column in enumerate(zip(*every, strict=True)):
        longest = min(LONGEST_PAUSE, 0.25 * 2**number)
        assert 0 <= min(column) < 0.1 * longest
        assert 0.9 * longest < max(column) <= longest


async def test_what_a_service_asks_for_is_the_least_pause() -> None:
    slept = await pauses(Later("x", kind="x", seconds=3.0))
    assert all(3.0 <= pause <= 3.0 + LONGEST_PAUSE for pause in slept)


async def test_same_seed_same_pauses() -> None:
    assert await pauses(Later("x", kind="x"), seed=1) == await pauses(Later("x", kind="x"), seed=1)
    assert await pauses(Later("x", kind="x"), seed=1) != await pauses(Later("x", kind="x"), seed=2)


async def test_what_cannot_help_is_not_repeated() -> None:
    assert await pauses(Later("x", kind="tls", can_help=False)) == []
    assert await pauses(Later("x", kind="x"), repeats=0) == []
    assert await pauses(Later("x", kind="x", seconds=100.0), seconds=50.0) == []


NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("5", 5.0),
        (" 0 ", 0.0),
        ("1.5", 1.5),
        ("9" * 30, 1e30),
        (formatdate(NOW + 90, usegmt=True), 90.0),
        (formatdate(NOW + 90), 90.0),
        ("Tue, 14 Nov 2023 22:14:50 -0000", 90.0),
        ("Tuesday, 14-Nov-23 22:14:50 GMT", 90.0),
        (formatdate(NOW - 90, usegmt=True), 0.0),
        ("-5", 0.0),
        ("soon", 0.0),
        ("", 0.0),
        ("inf", 0.0),
        ("\u0665", 0.0),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str, seconds: float) -> None:
    assert retry_after(value, now=NOW) == pytest.approx(seconds)


@settings(deadline=None)
@given(st.text(max_size=60))
def test_retry_after_reads_anything(value: str) -> None:
    assert retry_after(value) >= 0
