"""Runs that stop moving: named, dumped once, and stopped."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from agentgrpo.activity import Activity
from agentgrpo.chat import Chat
from agentgrpo.config.run import RolloutConfig, TrainConfig
from agentgrpo.engines.scripted import ScriptedEngine
from agentgrpo.errors import RunError
from agentgrpo.registry import resolve_env
from agentgrpo.rollout.manager import RolloutManager
from agentgrpo.run.watchdog import Watchdog
from agentgrpo.tooling import tool
from agentgrpo.types import Sampling, Task
from tests.engines.stubs import settled
from tests.faults.conftest import Ledger
from tests.faults.outside import nothing_left_behind
from tests.rollout.stages import POLICY, Desk, acting, calls

ROOT = Path(__file__).parents[2]


class Stuck(Desk):
    metadata = {"isolation": "thread"}  # noqa: RUF012

    is_over: ClassVar[threading.Event]

    @tool
    def search(self) -> str:
        """Hang."""
        self.is_over.wait()
        return "late"


@dataclass(slots=True)
class Watched:
    """A run under a watchdog that is in a hurry."""

    folder: Path
    lines: list[str] = field(default_factory=list)
    activity: Activity = field(default_factory=Activity)

    def dog(self, seconds: float = 0.3, stop_seconds: float = 0.7) -> Watchdog:
        config = TrainConfig(stall_seconds=seconds, stop_stalled_seconds=stop_seconds)
        return Watchdog(self.activity, self.folder, config, tell=self.lines.append)

    @property
    def details(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self.folder.glob("stall-*.txt")))


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


async def roll(chat: Chat, engine: ScriptedEngine, env: Any, watched: Watched, **config: Any) -> None:
    settings = {"max_turns": 2, "max_tokens": 200, "max_turn_tokens": 60, **config}
    manager = RolloutManager(
        resolve_env(env), chat, engine, RolloutConfig(**settings), seed=0, activity=watched.activity
    )
    watched.activity.enter("rollout")
    async with watched.dog(), manager:
        await manager.rollout(
            [Task(id="a", row={})],
            policy=POLICY,
            phase="train",
            step=3,
            group_size=3,
            sampling=Sampling(max_tokens=0),
        )


async def test_a_hung_tool_is_named_and_stops_the_run(tiny_chat: Chat, watched: Watched, ledger: Ledger) -> None:
    engine, Stuck.is_over = acting(tiny_chat, *[calls("search")] * 3), threading.Event()
    async with nothing_left_behind():
        with pytest.raises(RunError, match=r"stopped: no progress for 1 s in rollout: 3 wait for env step; the long"):
            await roll(tiny_chat, engine, Stuck, watched)
        Stuck.is_over.set()
    (line,) = watched.lines
    assert re.search(r" env step turn 0: search, for \d+ s\. Details: ", line)
    assert watched.details.count("self.is_over.wait()") in (1, 2)  # three equal stacks once in each report
    assert "3 x agentgrpo-env" in watched.details
    ledger.record("stalled run, tool", injected=1, survived=1)


async def test_a_silent_engine_and_a_queue_before_it_are_named(
    tiny_chat: Chat, watched: Watched, ledger: Ledger
) -> None:
    engine = acting(tiny_chat, latency=lambda call: 30.0)
    with pytest.raises(RunError, match=r"2 wait for place, 1 waits for generate"):
        await roll(tiny_chat, engine, Desk, watched, concurrency=1)
    ledger.record("stalled run, engine", injected=1, survived=1)


async def test_the_engines_thread_is_named(watched: Watched) -> None:
    done = threading.Event()

    def decode() -> None:
        done.wait()

    threading.Thread(target=decode, name="agentgrpo-engine", daemon=True).start()
    try:
        with pytest.raises(RunError, match=r"the engine's thread is at threading.py:\d+ in wait"):
            async with watched.dog():
                with watched.activity.waiting("train/0/a/0", "generate", "turn 1"):
                    await asyncio.sleep(30)
    finally:
        done.set()
    assert "in decode" in watched.details


@pytest.mark.parametrize("stage", ["evaluation", "rollout", "learn", "publish", "checkpoint"])
async def test_the_stage_that_does_not_move_is_named(watched: Watched, stage: str) -> None:
    with pytest.raises(RunError, match=f"in {stage}: nothing is waited for"):
        async with watched.dog():
            watched.activity.enter(stage)
            await asyncio.sleep(30)


async def test_slow_is_not_stalled(watched: Watched) -> None:
    async with watched.dog(1.5, 2.5):
        for _ in range(30):
            await asyncio.sleep(0.1)
            watched.activity.beat()
    assert watched.lines == []
    assert watched.details == ""


async def test_what_moves_again_goes_on(watched: Watched) -> None:
    watched.activity.enter("learn")
    async with watched.dog(stop_seconds=20):
        for number in (1, 3):
            await settled(lambda number=number: len(watched.lines) == number)  # type: ignore[misc]
            watched.activity.beat()
            await settled(lambda number=number: len(watched.lines) == number + 1)  # type: ignore[misc]
    told = [line.split(":")[0] for line in watched.lines]
    assert told == ["no progress for 0 s in learn", "learn goes on"] * 2


async def test_other_errors_and_cancellations_stay_what_they_are(watched: Watched) -> None:
    for error in (ValueError("mine"), asyncio.CancelledError()):
        with pytest.raises(type(error)):
            async with watched.dog():
                raise error


async def test_a_stopped_run_can_still_await(watched: Watched) -> None:
    try:
        async with watched.dog(0.1, 0.2):
            await asyncio.sleep(30)
    except RunError:
        async with asyncio.timeout(5):
            await asyncio.sleep(0.01)
    else:
        pytest.fail("it was not stopped")


async def test_a_full_disk_does_not_silence_it(watched: Watched) -> None:
    watched.folder = watched.folder / "missing"
    with pytest.raises(RunError, match="details could not be written"):
        async with watched.dog():
            await asyncio.sleep(30)


BLOCKED = """
import asyncio, sys, time
from pathlib import Path
from agentgrpo.run import watchdog
from agentgrpo.config.run import TrainConfig
from agentgrpo.activity import Activity
watchdog.GRACE = 0.3

def last_words(cause):
    print("LAST", cause)
    sys.stdout.flush()

async def main():
    activity = Activity()
    activity.enter("rollout")
    config = TrainConfig(stall_seconds=0.3, stop_stalled_seconds=0.6)
    dog = watchdog.Watchdog(activity, Path(sys.argv[1]), config, tell=print, last_words=last_words)
    async with dog:
        with activity.waiting("train/0/a/0", "env step", "turn 0: nap"):
            BODY

asyncio.run(main())
"""


@pytest.mark.parametrize("body", ["time.sleep(60)", "exec('while True: pass')"])
def test_a_blocked_event_loop_is_named_and_the_program_ended(tmp_path: Path, ledger: Ledger, body: str) -> None:
    code = BLOCKED.replace("BODY", body)
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 1
    first, last = done.stdout.splitlines()
    assert "1 waits for env step; the longest, train/0/a/0 env step turn 0: nap" in first
    assert "the event loop is blocked at <string>" in first
    assert last.startswith("LAST stopped: no progress")
    assert done.stderr.startswith("agentgrpo: stopped: no progress")
    assert "Traceback" not in done.stderr
    ledger.record(f"blocked event loop, {body[:10]}", injected=1, survived=1)


def test_troubles_are_counted_and_told_once() -> None:
    told: list[str] = []
    tell: Callable[[str], None] = told.append
    activity = Activity(tell)
    for number in range(3):
        activity.trouble("abandoned_threads", f"number {number}")
    activity.trouble("close_failures", "other")
    assert told == ["number 0", "other"]
    assert activity.metrics() == {"trouble/abandoned_threads": 3.0, "trouble/close_failures": 1.0}
