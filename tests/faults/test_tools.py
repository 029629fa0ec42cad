"""Tools that hang, explode or kill what they run in: stopped, recorded with one cause, and nobody else notices."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentgrpo.chat import Chat
from agentgrpo.registry import EnvSource, Isolation, resolve_env
from agentgrpo.rollout import places
from agentgrpo.types import Boundary, StopReason, Trajectory
from tests.clock import leap
from tests.engines.stubs import settled
from tests.faults.conftest import Ledger
from tests.faults.outside import nothing_left_behind, survivors
from tests.rollout.stages import acting, calls, play

ROOT = Path(__file__).parents[2]
FILE = '''
import asyncio, os, signal, subprocess, sys, time
import agentgrpo as ag

class Rigged(ag.ToolEnv):
    """Each tool is a fault."""
    def reset_task(self, task):
        self.folder = task["folder"]
        self.note(os.getpid())
        return "go"
    def note(self, pid):
        with open(os.path.join(self.folder, str(pid)), "w"):
            pass
    def reward(self):
        return {"outcome": 1.0}
    def is_hanging(self, tool):
        """Say that a tool hangs, which it does until there is a file of this name."""
        with open(f"{self.folder}.{tool}", "w"):
            pass
        return not os.path.exists(f"{self.folder}.bell")

    @ag.tool
    def sleep(self) -> str:
        while self.is_hanging("sleep"):
            time.sleep(0.05)
    @ag.tool
    def spin(self) -> str:
        while self.is_hanging("spin"):
            for _ in range(100_000):
                pass
    @ag.tool
    def lock(self) -> str:
        """Never lets another thread of Python run."""
        sum(range(10**12))
    @ag.tool
    def deaf(self) -> str:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        time.sleep(8)
    @ag.tool
    def fork(self) -> str:
        for detached in (False, True):
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(8)"], start_new_session=detached)
            self.note(child.pid)
        time.sleep(8)
    @ag.tool
    def daemon(self) -> str:
        """A child of a child in a session of its own, whose parent is gone."""
        code = ("import subprocess, sys; c = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(8)'], "
                "start_new_session=True); print(c.pid)")
        self.note(int(subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=8).stdout))
        time.sleep(8)
    @ag.tool
    def pipe(self) -> str:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(8)"], stdin=subprocess.PIPE)
        self.note(child.pid)
        child.stdin.write(b"x" * 2**24)

    @ag.tool
    def system_exit(self) -> str:
        sys.exit(4)
    @ag.tool
    def generator_exit(self) -> str:
        raise GeneratorExit
    @ag.tool
    def cancelled(self) -> str:
        raise asyncio.CancelledError
    @ag.tool
    def recursion(self) -> str:
        return self.recursion()
    @ag.tool
    def memory(self) -> str:
        raise MemoryError
    @ag.tool
    def unprintable(self) -> str:
        class Odd(Exception):
            def __str__(self):
                raise ValueError
        raise Odd
    @ag.tool
    def no_json(self) -> str:
        return {"a": {object()}}
    @ag.tool
    def keyboard(self) -> str:
        raise KeyboardInterrupt

    @ag.tool
    def huge(self, size: int) -> str:
        return "x" * size
    @ag.tool
    def chatty(self, size: int) -> str:
        for _ in range(size // 2**20):
            print("x" * 2**20)
    @ag.tool
    def mute(self) -> str:
        sys.stdout.close()
        os.close(1)

    @ag.tool
    def leave(self) -> str:
        os._exit(3)
    @ag.tool
    def kill(self) -> str:
        os.kill(os.getpid(), signal.SIGKILL)
    @ag.tool
    def hang_up(self) -> str:
        os.closerange(3, 100)
    @ag.tool
    def scribble(self) -> str:
        for number in range(3, 100):
            try:
                os.write(number, b"nonsense\\n")
            except OSError:
                pass

class Async(Rigged):
    @ag.tool
    async def system_exit(self) -> str:
        sys.exit(4)
    @ag.tool
    async def keyboard(self) -> str:
        raise KeyboardInterrupt
    @ag.tool
    async def generator_exit(self) -> str:
        raise GeneratorExit
    @ag.tool(deadline=0.1)
    async def sleep(self) -> str:
        await asyncio.sleep(8)
'''
HANGS = ("sleep", "spin", "lock", "deaf", "fork", "daemon", "pipe")
EXPLOSIONS = {
    "system_exit": "SystemExit: 4",
    "generator_exit": "GeneratorExit",
    "cancelled": "CancelledError",
    "recursion": "RecursionError",
    "memory": "MemoryError",
    "unprintable": "Odd",
    "no_json": "PydanticSerializationError",
}
DEATHS = {
    "leave": "process died (exit status 3)",
    "kill": "process died (signal 9)",
    "hang_up": "process died (exit status 1)",
    "scribble": "lost the environment's process",
}
DEADLINE = 2.0


@pytest.fixture(autouse=True)
def processes_start_as_late_as_they_like(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several at once take seconds each on a busy machine."""
    monkeypatch.setattr(places.ProcessPlace, "start_seconds", 300.0)


@pytest.fixture
def rigged(tmp_path: Path) -> EnvSource:
    (tmp_path / "rigged.py").write_text(FILE)
    return resolve_env(f"{tmp_path / 'rigged.py'}:Rigged")


async def injure(
    chat: Chat, source: EnvSource, kind: Isolation, tool: str, folder: Path, *, seconds: float = 20.0, **arguments: int
) -> Trajectory:
    """Play an episode whose first turn calls a tool, the second answers."""
    engine = acting(chat, calls(tool, **dict[str, Any](arguments)))
    return await play(
        chat,
        engine,
        source=replace(source, isolation=kind),
        row={"folder": str(folder)},
        env_seconds=seconds,
        episode_seconds=600.0,
    )


def failed(trajectory: Trajectory, boundary: Boundary, cause: str) -> bool:
    """Return whether an episode ended as a failure with this cause, on one line and unscored."""
    failure = trajectory.failure
    assert failure is not None, trajectory.stop_reason
    assert cause in failure.cause, failure.cause
    return (
        trajectory.stop_reason is StopReason.FAILED
        and failure.boundary is boundary
        and "\n" not in failure.cause
        and trajectory.reward is None
    )


async def test_hung_tools_are_killed_with_all_their_processes(
    tiny_chat: Chat, rigged: EnvSource, tmp_path: Path, ledger: Ledger, is_full: bool
) -> None:
    folder = tmp_path / "pids"
    folder.mkdir()
    rounds, ends, slowest = (16 if is_full else 1), list[Trajectory](), 0.0
    async with nothing_left_behind():
        for _ in range(rounds):
            batch = [injure(tiny_chat, rigged, "process", tool, folder, seconds=DEADLINE) for tool in HANGS]
            ends += await asyncio.gather(*batch)
    slowest = max(t.seconds - t.turns[-1].env_seconds if t.turns else 0.0 for t in ends)
    survived = sum(failed(t, Boundary.ENV, ") did not return within 2 s; its process was killed") for t in ends)
    pids = [int(path.name) for path in folder.iterdir()]
    assert len(pids) >= len(ends)
    assert slowest < 60
    orphans = await survivors(pids)
    ledger.record("hung tool, process", injected=len(ends), survived=survived, lost=len(orphans))


async def test_hung_tools_in_threads_are_abandoned_and_named(
    tiny_chat: Chat, rigged: EnvSource, tmp_path: Path, ledger: Ledger, is_full: bool
) -> None:
    ends, tools = list[Trajectory](), ("sleep", "spin")
    async with nothing_left_behind():
        for number in range(4 if is_full else 1):
            folder = tmp_path / f"{number}"
            folder.mkdir()
            hung = [injure(tiny_chat, rigged, "thread", tool, folder) for tool in tools]
            ending = asyncio.gather(*hung)
            await settled(lambda folder=folder: all(Path(f"{folder}.{tool}").exists() for tool in tools))  # type: ignore[misc]
            leap(20)
            ends += await ending
            (tmp_path / f"{number}.bell").touch()
    survived = sum(failed(t, Boundary.ENV, ") did not return within 20 s; its thread was abandoned") for t in ends)
    ledger.record("hung tool, thread", injected=len(ends), survived=survived)


@pytest.mark.parametrize("kind", ["inline", "thread", "process"])
async def test_exploding_tools_are_failures_of_the_tool(
    tiny_chat: Chat, rigged: EnvSource, tmp_path: Path, ledger: Ledger, kind: Isolation
) -> None:
    async with nothing_left_behind():
        ends = {tool: await injure(tiny_chat, rigged, kind, tool, tmp_path) for tool in EXPLOSIONS}
    survived = sum(failed(ends[tool], Boundary.TOOL, f"'{tool}' raised {what}") for tool, what in EXPLOSIONS.items())
    injected = len(EXPLOSIONS)
    if kind != "inline":  # where Ctrl-C and a tool that raises it cannot be told apart
        survived += failed(
            await injure(tiny_chat, rigged, kind, "keyboard", tmp_path), Boundary.ENV, "raised KeyboardInterrupt"
        )
        injected += 1
    ledger.record(f"exploding tool, {kind}", injected=injected, survived=survived)


async def test_async_tools_do_not_end_the_loop_they_run_on(
    tiny_chat: Chat, tmp_path: Path, rigged: EnvSource, ledger: Ledger
) -> None:
    source = resolve_env(f"{tmp_path / 'rigged.py'}:Async")
    causes = {"system_exit": "SystemExit: 4", "keyboard": "KeyboardInterrupt", "generator_exit": "GeneratorExit"}
    async with nothing_left_behind():
        ends = {tool: await injure(tiny_chat, source, "thread", tool, tmp_path) for tool in causes}
        late = await injure(tiny_chat, source, "thread", "sleep", tmp_path)
    assert late.reward == 1.0
    assert '"timeout"' in late.turns[0].messages[0]["content"]
    survived = sum(failed(ends[tool], Boundary.TOOL, what) for tool, what in causes.items()) + 1
    ledger.record("hung and exploding async tools", injected=len(causes) + 1, survived=survived)


async def test_what_kills_its_process_ends_one_episode(
    tiny_chat: Chat, rigged: EnvSource, tmp_path: Path, ledger: Ledger, is_full: bool
) -> None:
    folder = tmp_path / "pids"
    folder.mkdir()
    tools = list(DEATHS) * (8 if is_full else 1)
    ends: list[Trajectory] = []
    async with nothing_left_behind():
        for start in range(0, len(tools), len(DEATHS)):
            batch = tools[start : start + len(DEATHS)]
            ends += await asyncio.gather(*(injure(tiny_chat, rigged, "process", tool, folder) for tool in batch))
    survived = sum(failed(t, Boundary.ENV, DEATHS[tool]) for t, tool in zip(ends, tools, strict=True))
    orphans = await survivors(int(path.name) for path in folder.iterdir())
    ledger.record("tool kills its process", injected=len(tools), survived=survived, lost=len(orphans))


@pytest.mark.parametrize("kind", ["thread", "process"])
async def test_floods_reach_neither_the_model_nor_the_run(
    tiny_chat: Chat, rigged: EnvSource, tmp_path: Path, ledger: Ledger, is_full: bool, kind: Isolation
) -> None:
    size = 2**30 if is_full else 2**26
    ended = await injure(tiny_chat, rigged, kind, "huge", tmp_path, size=size)
    assert len(ended.turns[0].messages[0]["content"]) < 9000
    survived, injected = int(ended.reward == 1.0), 1
    if kind == "process":
        floods = [("chatty", {"size": 2**26 if is_full else 2**22}), ("mute", {})]
        for tool, arguments in floods:
            ended = await injure(tiny_chat, rigged, kind, tool, tmp_path, **arguments)
            survived += ended.reward == 1.0
            injected += 1
    ledger.record(f"flooding tool, {kind}", injected=injected, survived=survived)


OWNER = """
import asyncio, json, sys
from agentgrpo.registry import resolve_env
from agentgrpo.rollout.isolation import EnvHosts
from dataclasses import replace

async def main():
    source = replace(resolve_env(sys.argv[1] + ":Rigged"), isolation="process")
    hosts = EnvHosts(source, concurrency=1, seconds=60.0)
    for tool in sys.argv[3:]:
        host = hosts.make()
        await host.reset(options={"task": {"folder": sys.argv[2]}})
        call = {"id": "c", "name": tool, "arguments": {}}
        asyncio.create_task(host.step(json.dumps({"content": "", "tool_calls": [call]})))
    await asyncio.sleep(1.0)
    print("ready", flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_nothing_outlives_a_run_that_is_killed(
    rigged: EnvSource, tmp_path: Path, ledger: Ledger, is_full: bool
) -> None:
    tools = ("sleep", "lock", "deaf") if is_full else ("lock",)
    folder = tmp_path / "pids"
    folder.mkdir()
    arguments = [str(tmp_path / "rigged.py"), str(folder), *tools]
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OWNER, *arguments, stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    assert owner.stdout is not None
    assert await owner.stdout.readline() == b"ready\n"
    pids = [int(path.name) for path in folder.iterdir()]
    assert len(pids) == len(tools)
    owner.kill()
    await owner.wait()
    orphans = await survivors(pids)
    ledger.record("run killed while a tool hangs", injected=len(tools), survived=len(tools), lost=len(orphans))
