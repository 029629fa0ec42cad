from __future__ import annotations

import subprocess
import sys

from agentgrpo.engines.guard import Guard
from tests.small import ROOT

KILLED = "import os, sys; from agentgrpo.engines.guard import Guard; Guard([int(sys.argv[1])]); os.kill(os.getpid(), 9)"


def test_processes_end_with_a_program_that_was_killed() -> None:
    with subprocess.Popen(["sleep", "60"]) as watched:
        subprocess.run([sys.executable, "-c", KILLED, str(watched.pid)], cwd=ROOT, timeout=30)
        assert watched.wait(10) < 0


def test_a_guard_that_is_stopped_harms_nothing() -> None:
    with subprocess.Popen(["sleep", "60"]) as watched:
        Guard([watched.pid]).stop()
        assert watched.poll() is None
        watched.kill()
