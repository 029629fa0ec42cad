from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from agentgrpo.family import descendants, is_alive, kill, kill_family
from tests.tools.sandbox.bombs import running

pytestmark = pytest.mark.skipif(not Path("/proc/self").exists(), reason="descendants are found on Linux only")
# Its orphans stay below it; some leave its group; all of them go on making others.
FAMILY = """
import os, sys, time
from agentgrpo.family import adopt_orphans
adopt_orphans()
for number in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        while True:
            if os.fork() == 0:
                time.sleep(60)
            time.sleep(0.005)
print(flush=True)
time.sleep(60)
"""


def test_a_family_is_killed_with_those_that_left_and_those_that_are_made_meanwhile() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", FAMILY, "agentgrpo-family-token"],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[1],
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        end = time.monotonic() + 60
        while len(found := descendants(process.pid)) <= 6 and time.monotonic() < end:
            time.sleep(0.01)
        assert len(found) > 6
        kill_family(process.pid)
    end = time.monotonic() + 60
    while any(map(is_alive, found)) and time.monotonic() < end:
        time.sleep(0.01)
    assert not any(map(is_alive, found))
    assert running("agentgrpo-family-token") == []


def test_what_is_dead_is_not_alive_and_can_be_killed_again() -> None:
    with subprocess.Popen([sys.executable, "-c", "print()"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read()
        end = time.monotonic() + 60
        while is_alive(process.pid) and time.monotonic() < end:  # a zombie, until it is reaped
            time.sleep(0.01)
        assert not is_alive(process.pid)
    kill(process.pid)
    assert descendants(process.pid) == []
