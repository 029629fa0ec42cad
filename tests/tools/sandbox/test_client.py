"""The launcher, its supervisors, and what becomes of a call when one of them, or the program itself, is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agentgrpo.errors import ToolFailure
from agentgrpo.family import descendants, is_alive
from agentgrpo.tools.sandbox import Sandbox, client
from agentgrpo.tools.sandbox.folder import sweep
from tests.tools.sandbox.bombs import running

pytestmark = pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux")
ROOT = Path(__file__).parents[3]
PATIENCE = 60.0  # seconds, on any machine


async def sleepers(name: str, count: int) -> list[int]:
    """Return the processes of a command once there are so many."""
    for _ in range(int(PATIENCE / 0.02)):
        if len(found := running(name)) >= count:
            return found
        await asyncio.sleep(0.02)
    raise AssertionError(f"{count} of {name!r} did not come")


def gone(token: str) -> bool:
    """Return whether no process has a text in its command any more, after some patience."""
    end = time.monotonic() + PATIENCE
    while running(token) and time.monotonic() < end:
        time.sleep(0.02)
    return running(token) == []


def launcher() -> int:
    return client._running[0]._process.pid


async def test_a_launcher_that_was_killed_is_started_again() -> None:
    with Sandbox(minimum="process") as sandbox:
        assert await sandbox.shell("echo 1") == "1\n"
        first = launcher()
        os.kill(first, signal.SIGKILL)
        client._running[0]._process.wait(PATIENCE)
        assert await sandbox.shell("echo 2") == "2\n"
        assert launcher() != first


async def test_a_call_whose_supervisor_is_killed_fails_and_leaves_nobody() -> None:
    with Sandbox(minimum="process") as sandbox:
        call = asyncio.create_task(sandbox.shell("sleep 63 & sleep 63"))
        sleeper = (await sleepers("sleep\x0063", 2))[0]
        supervisor = next(pid for pid in descendants(launcher()) if sleeper in descendants(pid))
        os.kill(supervisor, signal.SIGKILL)
        with pytest.raises(ToolFailure, match="gave no answer: its process ended"):
            await call
        assert gone("sleep\x0063")
        assert await sandbox.shell("echo on") == "on\n"


def test_a_program_that_is_killed_leaves_no_process() -> None:
    code = (
        "import os; from agentgrpo.tools.sandbox import Sandbox; s = Sandbox(minimum='process'); "
        "print(s._folder.path, flush=True); s.run_sync(['/bin/sh', '-c', 'setsid sleep 64 & sleep 64'])"
    )
    program = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    with program:
        assert program.stdout is not None
        folder = Path(program.stdout.readline().strip())
        end = time.monotonic() + PATIENCE
        launched: list[int] = []
        while len(set(launched) & set(running("sleep\x0064"))) < 2:  # its own: others may run the same test
            assert time.monotonic() < end
            time.sleep(0.02)
            launched = list(descendants(program.pid))
        program.kill()
    deadline = time.monotonic() + PATIENCE
    while any(map(is_alive, launched)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(is_alive, launched))
    sweep()
    assert not folder.exists()


def test_a_program_that_ends_takes_the_launcher_with_it() -> None:
    code = (
        "from agentgrpo.tools.sandbox import Sandbox, client; Sandbox(minimum='process'); "
        "print(client._running[0]._process.pid)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert not is_alive(int(done.stdout))


def test_the_launcher_is_small_and_has_nothing_of_this_program() -> None:
    with Sandbox(minimum="process"):
        pid = launcher()
    names = {entry.split(b"=")[0] for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") if entry}
    assert names <= {b"PATH", b"PYTHONPATH", b"TMPDIR"}
    maps = Path(f"/proc/{pid}/maps").read_text()
    assert "pydantic" not in maps
    assert "numpy" not in maps


async def test_an_answer_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with Sandbox(minimum="process") as sandbox:
        await sandbox.shell("true")
        os.kill(launcher(), signal.SIGSTOP)  # it takes connections, and starts nothing
        monkeypatch.setattr(client, "GRACE", 0.2)
        with pytest.raises(ToolFailure, match="gave no answer: TimeoutError"):
            await sandbox.run(["/bin/true"], seconds=0.1)
        os.kill(launcher(), signal.SIGCONT)
        assert await sandbox.shell("echo on") == "on\n"
