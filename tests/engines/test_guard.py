from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from agentgrpo.engines import guard
from agentgrpo.engines.guard import Guard
from tests.small import ROOT

KILLED = "import os, sys; from agentgrpo.engines.guard import Guard; Guard([int(sys.argv[1])]); os.kill(os.getpid(), 9)"


def test_processes_end_with_a_program_that_was_killed() -> None:
    with subprocess.Popen(["sleep", "60"]) as watched:
        subprocess.run([sys.executable, "-c", KILLED, str(watched.pid)], cwd=ROOT, timeout=100)
        assert watched.wait(60) < 0


def test_processes_can_be_ended_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "_SCRIPT", guard._SCRIPT.replace("sleep 5", "sleep 0.1"))
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE) as watched:
        assert watched.stdout is not None and watched.stdout.readline()  # it listens to nobody from now on
        Guard([watched.pid]).kill()
        assert watched.wait(60) == -signal.SIGKILL


def test_a_guard_that_is_stopped_harms_nothing() -> None:
    with subprocess.Popen(["sleep", "60"]) as watched:
        Guard([watched.pid]).stop()
        assert watched.poll() is None
        watched.kill()
