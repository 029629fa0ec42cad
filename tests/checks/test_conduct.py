from __future__ import annotations

import asyncio
import json
import signal
import time
from typing import Any

import pytest

import agentgrpo as ag
from agentgrpo.checks.subject import NotApplicable, subject_of
from agentgrpo.envcheck import CHECKS
from agentgrpo.registry import resolve_env
from agentgrpo.types import JsonObject
from tests.checks.sound import Sound, failed, problem


class Sleepy(Sound):
    @ag.tool
    def look(self, thing: str) -> str:
        """Say what colour a thing has."""
        time.sleep(0.02)
        return str(self.things.get(thing))


class Rarely(Sound):
    """The oracle has no use for the tool that blocks."""

    @ag.tool
    def wait(self) -> str:
        """Wait for the paint to dry."""
        time.sleep(0.02)
        return "dry"


class SlowStart(Sound):
    def reset_task(self, task: JsonObject) -> Any:
        time.sleep(0.02)
        return super().reset_task(task)


class Busy(Sound):
    @ag.tool
    def look(self, thing: str) -> str:
        """Say what colour a thing has."""
        end = time.thread_time() + 0.05
        while time.thread_time() < end:
            pass
        return str(self.things.get(thing))


class Awaiting(Sound):
    @ag.tool
    async def look(self, thing: str) -> str:  # type: ignore[override]
        """Say what colour a thing has."""
        await asyncio.sleep(0)
        return str(self.things.get(thing))


@pytest.mark.parametrize(
    ("env", "told"),
    [
        (Sleepy, "a call of look waited 0.0"),
        (Rarely, "a call of wait waited 0.0"),
        (SlowStart, "reset waited 0.0"),
        (Busy, "a call of look computed for 0.0"),
        (Awaiting, "`async def` tools cannot run with isolation 'inline'"),
    ],
)
def test_a_tool_that_blocks_the_event_loop(env: Any, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentgrpo.checks.conduct.MOST_BUSY", 0.04)
    found = problem("inline", env)
    assert told in found
    assert "'isolation': 'thread'" in found


def test_in_a_thread_a_tool_may_block() -> None:
    class Threaded(Sleepy):
        metadata = {"isolation": "thread"}  # noqa: RUF012

    with pytest.raises(NotApplicable, match="steps run in a thread of their own, where they may wait"):
        CHECKS["inline"](subject_of(resolve_env(Threaded), 1, 0))


class Fragile(Sound):
    def step(self, action: str) -> Any:
        json.loads(action)
        return super().step(action)


class Careless(Sound):
    @ag.tool
    def look(self, thing: str) -> str:
        """Say what colour a thing has."""
        return str(self.things[thing])  # KeyError, where the model should be told


@pytest.mark.parametrize(
    ("env", "told"),
    [
        (Fragile, "step raised JSONDecodeError"),
        (Careless, "step raised ToolFailure: tool 'look' raised KeyError"),
    ],
)
def test_a_step_that_raises_on_what_a_model_wrote(env: Any, told: str) -> None:
    found = problem("garbage", env)
    assert told in found
    assert "raise ag.ToolError in tools" in found


class Patient(Sound):
    @ag.tool
    def wait(self, seconds: float) -> str:
        """Wait for the paint to dry."""
        time.sleep(min(max(seconds, 0), 60) if seconds > 1e9 else 0)
        return "dry"


class Killable(Patient):
    metadata = {"isolation": "process"}  # noqa: RUF012


def test_a_tool_that_goes_on_for_ever_is_told_unless_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentgrpo.checks.conduct.MOST_STEP", 0.2)
    before = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)
    found = problem("garbage", Patient)
    assert "step had not returned after 0.2 s on the action" in found
    assert "bound what a tool does, or declare isolation 'process'" in found
    handler, (left, _) = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)
    assert handler is before[0]  # pytest's own alarm, which goes on
    assert bool(left) == bool(before[1][0])
    assert left <= before[1][0]
    assert "(huge numbers left out)" in CHECKS["garbage"](subject_of(resolve_env(Killable), 1, 0))


class Chatty(Sound):
    def step(self, action: str) -> Any:
        self.history = [*getattr(self, "history", []), action]
        obs, reward, terminated, truncated, info = super().step(action)
        if info["messages"]:
            info["messages"][0]["content"] += f" So far: {self.history}"
        return obs, reward, terminated, truncated, info

    def reset_task(self, task: JsonObject) -> Any:
        self.history = []
        return super().reset_task(task)


class Flooding(Sound):
    def reset_task(self, task: JsonObject) -> str:
        return f"{super().reset_task(task)}{' Please.' * 5000}"


class Unwritable(Sound):
    def step(self, action: str) -> Any:
        obs, reward, terminated, truncated, info = super().step(action)
        return obs, reward, terminated, truncated, info | {"state_diff": [{"op": "add", "value": {1, 2}}]}


@pytest.mark.parametrize(
    ("env", "told"),
    [
        (Chatty, "a call of look, repeated, was answered with"),
        (Flooding, "reset showed 40,0"),
        (Unwritable, "step 1 gave info['state_diff'] that is no plain JSON data: Object of type set"),
    ],
)
def test_observations_that_flood_or_cannot_be_kept(env: Any, told: str) -> None:
    assert told in problem("observations", env)


def test_a_list_that_grows_as_it_should_is_no_flood() -> None:
    class Listing(Sound):
        @ag.tool
        def add(self, thing: str) -> str:
            """Add a thing."""
            self.things[f"{thing[:9]}{len(self.things)}"] = "white"
            return f"added number {len(self.things)}"

    assert failed(Listing, tasks=1) == {}
