from __future__ import annotations

import random

from agentgrpo.envs.attempt import Attempt, Script
from agentgrpo.envs.countdown.env import Countdown


def attempt(quality: float) -> Attempt:
    return Attempt(Countdown(), {"x": 1}, quality, random.Random(0))


def share(quality: float) -> float:
    """Return how often the right one of four choices is taken."""
    one = attempt(quality)
    return sum(one.decide("a", "abcd") == "a" for _ in range(2000)) / 2000


def test_quality_is_the_share_of_decisions_that_are_made() -> None:
    assert share(1.0) == 1.0
    assert abs(share(0.0) - 0.25) < 0.03
    assert abs(share(0.5) - 0.625) < 0.03


def test_the_same_seed_decides_the_same() -> None:
    first, second = ([attempt(0.5).decide(0, range(9)) for _ in range(20)] for _ in range(2))
    assert first == second


def test_asking_yields_a_call_and_returns_its_parsed_result() -> None:
    def script() -> Script[int]:
        shown: dict[str, int] = yield from attempt(1.0).ask("calculate", expression="1+1")
        return shown["result"]

    running = script()
    (call,) = next(running)["tool_calls"]
    assert (call["name"], call["arguments"]) == ("calculate", {"expression": "1+1"})
    try:
        running.send(({"role": "tool", "content": '{"result": 2}'},))
    except StopIteration as end:
        assert end.value == 2
    else:
        raise AssertionError("the script goes on")
