from __future__ import annotations

import asyncio
import json
import os
import subprocess
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from agentgrpo.activity import Activity
from agentgrpo.core import StepResult
from agentgrpo.envs.lockbox.env import Lockbox
from agentgrpo.errors import EnvError, EnvFailure, RunError, ToolFailure
from agentgrpo.registry import EnvSource, Isolation, resolve_env
from agentgrpo.rollout import places
from agentgrpo.rollout.isolation import EnvHost, EnvHosts
from tests.clock import leap
from tests.engines.stubs import settled
from tests.rollout.hosting import hosting

FILE = '''
import os, subprocess, sys, time
import agentgrpo as ag
from agentgrpo.errors import RunError, ToolFailure

class Odd(ag.ToolEnv):
    """Misbehaves on demand."""
    def reset_task(self, task):
        if task.get("bad"):
            raise ValueError("bad task")
        return str(os.getpid())
    @ag.tool
    def hang(self, pid_file: str) -> str:
        """Start a child and never return."""
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        with open(pid_file, "w") as file:
            file.write(str(child.pid))
        time.sleep(60)
    @ag.tool
    def nap(self, bell: str) -> str:
        """Sleep until there is such a file."""
        while not os.path.exists(bell):
            time.sleep(0.01)
        return "rested"
    @ag.tool
    def die(self) -> str:
        os._exit(3)
    @ag.tool
    def leave(self) -> str:
        sys.exit(4)
    @ag.tool
    def down(self) -> str:
        raise ToolFailure("backend is down")
    @ag.tool
    def rug(self) -> str:
        raise RunError("not what it was")
    def reward(self):
        return {"outcome": 0.5, "extra": 2.0}
    def close(self):
        print("closing")
        super().close()

class Slow(Odd):
    @ag.tool(deadline=0.05)
    async def wait(self) -> str:
        import asyncio
        await asyncio.sleep(60)
'''


KINDS: tuple[Isolation, ...] = ("inline", "thread", "process")


@pytest.fixture
def odd(tmp_path: Path) -> EnvSource:
    (tmp_path / "odd.py").write_text(FILE)
    return resolve_env(f"{tmp_path / 'odd.py'}:Odd")


def call(tool: str, **arguments: Any) -> str:
    return json.dumps({"content": "", "tool_calls": [{"id": "c", "name": tool, "arguments": arguments}]})


def no_thread(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


async def episode(host: EnvHost) -> list[Any]:
    said: list[Any] = [await host.reset(seed=3, options={"task": {"task_id": "x", "seed": 7}})]
    saved = await host.snapshot()
    assert saved is not None
    said += [await host.step(call("press", digit=d)) for d in (5, 3)]
    said.append(await host.score())
    await host.restore(saved)
    said += [await host.step(call("press", digit=5)), await host.step("ok")]
    return said


def is_alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


async def test_an_episode_is_the_same_everywhere() -> None:
    source = resolve_env("lockbox", reward_weights={"outcome": 2.0})
    transcripts = []
    for kind in KINDS:
        async with hosting(source, kind) as hosts:
            host = hosts.make()
            transcripts.append(await episode(host))
            await host.close()
    assert transcripts[0] == transcripts[1] == transcripts[2]
    assert transcripts[0][3] == (0.5, {"outcome": 0.25})


@pytest.mark.parametrize("kind", KINDS)
async def test_what_an_environment_raises_is_an_episodes_failure(odd: EnvSource, kind: Isolation) -> None:
    async with hosting(odd, kind) as hosts:
        host = hosts.make()
        with pytest.raises(EnvFailure, match="not reset"):
            await host.step("x")
        with pytest.raises(EnvFailure, match=r"reset raised ValueError: bad task \(odd.py:10\)"):
            await host.reset(options={"task": {"bad": True}})
        await host.reset()
        with pytest.raises(ToolFailure, match="backend is down"):
            await host.step(call("down"))
        with pytest.raises(ToolFailure, match="SystemExit: 4"):
            await host.step(call("leave"))
        assert await host.score() == (2.5, {"outcome": 0.5, "extra": 2.0})
        assert await host.snapshot() is None
        with pytest.raises(EnvFailure, match="no restore"):
            await host.restore(b"")
        await host.close()
        with pytest.raises(EnvFailure, match="its episode is over"):
            await host.reset()
    with pytest.raises(EnvFailure, match="rollout was closed"):
        hosts.make()


async def test_weights_for_no_term_are_a_failure(tmp_path: Path) -> None:
    source = resolve_env("lockbox", reward_weights={"outcom": 1.0})
    async with hosting(source, "inline") as hosts:
        host = hosts.make()
        await host.reset()
        with pytest.raises(EnvFailure, match="Did you mean 'outcome'"):
            await host.score()


async def test_a_hung_thread_is_abandoned_counted_and_replaced(odd: EnvSource, tmp_path: Path) -> None:
    bell = tmp_path / "bell"
    async with hosting(odd, "thread") as hosts:
        host = hosts.make()
        await host.reset()
        asyncio.get_running_loop().call_soon(leap, 20)
        with pytest.raises(EnvFailure, match=r"step did not return within 20 s; its thread was abandoned"):
            await host.step(call("nap", bell=str(bell)))
        bell.touch()
        assert hosts.abandoned == 1
        with pytest.raises(EnvFailure, match="discarded"):
            await host.score()
        await host.close()
        fresh = hosts.make()
        await fresh.reset()
        assert (await fresh.step(call("nap", bell=str(bell))))[0] == "rested"


async def test_a_hung_process_is_killed_with_its_group(odd: EnvSource, tmp_path: Path) -> None:
    async with hosting(odd, "process") as hosts:
        host = hosts.make()
        pid = int((await host.reset())[0])
        assert pid != os.getpid()
        pid_file = tmp_path / "pid"
        hanging = asyncio.create_task(host.step(call("hang", pid_file=str(pid_file))))
        await settled(lambda: pid_file.exists() and pid_file.read_text() != "")
        leap(20)
        with pytest.raises(EnvFailure, match="its process was killed"):
            await hanging
        grandchild = int(pid_file.read_text())
        await settled(lambda: not is_alive(grandchild))
        assert not is_alive(pid)
        assert hosts.abandoned == 0


async def test_a_process_that_dies_is_a_failure_and_is_replaced(odd: EnvSource) -> None:
    async with hosting(odd, "process") as hosts:
        host = hosts.make()
        first = (await host.reset())[0]
        with pytest.raises(EnvFailure, match=r"process died .exit status 3"):
            await host.step(call("die"))
        await host.close()
        host = hosts.make()
        assert (await host.reset())[0] != first
        await host.close()


@pytest.mark.parametrize("is_reset", [False, True])
async def test_no_process_is_started_to_be_left(
    odd: EnvSource, monkeypatch: pytest.MonkeyPatch, is_reset: bool
) -> None:
    spawned: list[int] = []
    spawn = places._spawn

    def counted(descriptor: int) -> subprocess.Popen[bytes]:
        spawned.append(descriptor)
        return spawn(descriptor)

    monkeypatch.setattr(places, "_spawn", counted)
    async with hosting(odd, "process") as hosts:
        host = hosts.make()
        if is_reset:
            await host.reset()
            with pytest.raises(EnvFailure, match="process died"):
                await host.step(call("die"))
        await host.close()
    assert len(spawned) == is_reset
    assert not hosts.activity.troubles


async def test_no_thread_to_be_had_is_an_episodes_failure(odd: EnvSource, monkeypatch: pytest.MonkeyPatch) -> None:
    async with hosting(odd, "thread") as hosts:
        with monkeypatch.context() as scarce:
            scarce.setattr(threading.Thread, "start", no_thread)
            host = hosts.make()
            with pytest.raises(EnvFailure, match=r"reset: no thread .*can't start new thread.*rollout.concurrency"):
                await host.reset()
            await host.close()
        assert not hosts.activity.troubles
        host = hosts.make()
        assert (await host.reset())[0] == str(os.getpid())
        await host.close()


@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
async def test_no_thread_to_reap_a_process_with_ends_nothing(
    odd: EnvSource, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def busy(process: subprocess.Popen[bytes], timeout: float | None = None) -> int:
        raise subprocess.TimeoutExpired("env", timeout or 0.0)

    async with hosting(odd, "process") as hosts:
        host = hosts.make()
        pid = int((await host.reset())[0])
        with monkeypatch.context() as scarce:
            scarce.setattr(threading.Thread, "start", no_thread)
            scarce.setattr(subprocess.Popen, "wait", busy)
            asyncio.get_running_loop().call_soon(leap, 20)
            with pytest.raises(EnvFailure, match="its process was killed"):
                await host.step(call("nap", bell=str(tmp_path / "bell")))
        await settled(lambda: not is_alive(pid))


@pytest.mark.parametrize("kind", ["thread", "process"])
async def test_places_are_used_again_for_a_fresh_environment(kind: Isolation) -> None:
    async with hosting(resolve_env("lockbox"), kind) as hosts:
        used = []
        for _ in range(3):
            host = hosts.make()
            used.append(host._place)
            await host.reset(seed=0)
            assert await host.score() == (0.0, {"outcome": 0.0})
            await host.step(call("press", digit=1))
            await host.close()
        assert used[0] is used[1] is used[2]


async def test_cancelling_a_call_discards_the_environment(odd: EnvSource, tmp_path: Path) -> None:
    bell, told = tmp_path / "bell", list[str]()
    async with hosting(odd, "thread") as hosts:
        hosts.activity = Activity(told.append)
        host = hosts.make()
        await host.reset()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await host.step(call("nap", bell=str(bell)))
        bell.touch()
        with pytest.raises(EnvFailure, match="discarded"):
            await host.score()
        assert hosts.abandoned == 1
        assert "step was cut off. Its thread cannot be stopped" in told[0]  # not: it hung


class Meeting(Lockbox):
    """Steps only when all are there to step."""

    everybody: ClassVar = threading.Barrier(64)

    def step(self, action: str) -> StepResult:
        self.everybody.wait(60)
        return super().step(action)


async def test_many_blocking_environments_run_at_once() -> None:
    async with hosting(resolve_env(Meeting), "thread", seconds=60) as hosts:

        async def play() -> float:
            host = hosts.make()
            await host.reset(seed=0)
            for _ in range(4):
                await host.step(call("press", digit=1))
            reward = (await host.step("ok"))[1]
            await host.close()
            return reward

        assert len(await asyncio.gather(*(play() for _ in range(64)))) == 64
    await settled(lambda: not any(thread.name == "agentgrpo-env" for thread in threading.enumerate()))


async def test_async_tools_are_stopped_by_their_own_deadline(tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_text(FILE)
    slow = resolve_env(f"{tmp_path / 'odd.py'}:Slow")
    for kind in ("thread", "process"):
        async with hosting(slow, kind) as hosts:
            host = hosts.make()
            await host.reset()
            assert '"timeout"' in (await host.step(call("wait")))[0]
            await host.close()
    with pytest.raises(EnvError, match=r"isolation 'inline'.*'isolation': 'thread'"):
        EnvHosts(replace(slow, isolation="inline"), concurrency=1, seconds=1.0)


@pytest.mark.parametrize("kind", KINDS)
async def test_an_environment_can_say_that_the_run_cannot_go_on(odd: EnvSource, kind: Isolation) -> None:
    async with hosting(odd, kind) as hosts:
        host = hosts.make()
        await host.reset()
        with pytest.raises(RunError, match=r"^not what it was$"):
            await host.step(call("rug"))
        assert await host.score() == (2.5, {"outcome": 0.5, "extra": 2.0})
        await host.close()


def test_a_class_no_other_process_can_import_is_told() -> None:
    class Local(Lockbox):
        metadata = {"isolation": "process"}  # noqa: RUF012

    with pytest.raises(EnvError, match="move its class to a module or file"):
        EnvHosts(resolve_env(Local), concurrency=1, seconds=1.0)
