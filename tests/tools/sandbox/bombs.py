"""Commands that will not end, take all there is, or leave somebody behind; and what has to become of each.

As a program, `bombs.py TIER...` sets them all off and prints what became of them.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from agentgrpo.tools.sandbox.box import Sandbox
from agentgrpo.tools.sandbox.job import MB, Limits

SECONDS = 1.0
LIMITS = Limits(seconds=SECONDS, memory=256 * MB, disk=32 * MB, file_size=16 * MB, processes=32, open_files=64)
LATE = replace(LIMITS, seconds=60.0)  # for what is to end before its deadline, on any machine


@dataclass(frozen=True)
class Bomb:
    code: str
    ends: tuple[str, ...] = ("deadline",)  # any of these
    limits: Limits = LIMITS
    first: str = ""  # a command before it


_START = "import os, signal, subprocess, sys, threading, time\n"
_DAEMON = """
def daemon():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for number in range(1, 65):
                try: signal.signal(number, signal.SIG_IGN)
                except (OSError, ValueError): pass
            time.sleep(600)
        os._exit(0)
"""
_UNDEAD = """
import ctypes
ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)  # PR_SET_PDEATHSIG
"""
BOMBS: dict[str, Bomb] = {
    "sleep": Bomb("time.sleep(600)"),
    "spin": Bomb("while True: pass"),
    "spin_in_c": Bomb("sum(range(10**12))"),
    "cpu": Bomb("while True: pass", ("cpu",), Limits(seconds=LATE.seconds, cpu_seconds=1)),
    "deaf": Bomb("for n in (1, 2, 3, 15): signal.signal(n, signal.SIG_IGN)\ntime.sleep(600)"),
    "stopped": Bomb("os.kill(os.getpid(), signal.SIGSTOP)"),
    "wait_for_input": Bomb("os.pipe(); subprocess.run(['cat'], stdin=os.fdopen(os.pipe()[0]))"),
    "child_hangs": Bomb("subprocess.run(['sleep', '600'])"),
    "fork_bomb": Bomb("while True:\n    try: os.fork()\n    except OSError: pass", ("deadline", "processes", "memory")),
    "fork_and_vanish": Bomb(
        "while True:\n    try:\n        if os.fork(): os._exit(0)\n    except OSError: pass", ("exit", "deadline")
    ),
    "fork_and_vanish_many": Bomb(
        "for _ in range(4): os.fork()\n"
        "while True:\n    try:\n        if os.fork(): os._exit(0)\n        os.setsid()\n    except OSError: pass",
        ("exit", "deadline", "processes"),
    ),
    "shell_bomb": Bomb(
        "os.execv('/bin/sh', ['sh', '-c', 'f() { f | f & }; f; sleep 600'])", ("deadline", "processes", "exit")
    ),
    "daemon": Bomb(_DAEMON + "daemon()", ("exit",), LATE),
    "daemons": Bomb(_DAEMON + "for _ in range(8): daemon()", ("exit",), LATE),
    "undead_daemon": Bomb(_UNDEAD + _DAEMON + "daemon()", ("exit",), LATE),
    "nohup": Bomb(
        "os.system('nohup sleep 600 >/dev/null 2>&1 & setsid sleep 600 & disown -a 2>/dev/null')", ("exit",), LATE
    ),
    "daemon_with_output": Bomb("os.system('sleep 600 & echo started')", ("exit",), LATE),
    "daemon_that_prints": Bomb(_DAEMON + "os.system('yes & true')", ("exit",), LATE),
    "flood": Bomb("while True: os.write(1, b'x' * 65536)"),
    "flood_1_gb": Bomb("for _ in range(16384): os.write(1, b'x' * 65536)", ("exit", "deadline")),
    "flood_of_lines": Bomb("os.execv('/bin/sh', ['sh', '-c', 'yes'])"),
    "memory": Bomb("bytearray(2**33)", ("exit",), LATE),
    "memory_slowly": Bomb("a = []\nwhile True: a.append(bytearray(2**20))", ("exit", "memory", "deadline")),
    "memory_of_many": Bomb(
        "for _ in range(3): os.fork()\na = bytearray(100 * 2**20)\n"
        "for i in range(0, len(a), 4096): a[i] = 1\ntime.sleep(600)",
        ("memory",),
        Limits(seconds=LATE.seconds, memory=256 * MB),
    ),
    "mapped_file": Bomb(
        "import mmap\nf = open('m', 'w+b'); f.truncate(15 * 2**20)\nm = mmap.mmap(f.fileno(), 0)\n"
        "while True:\n    for i in range(0, len(m), 4096): m[i] = 1"
    ),
    "large_file": Bomb("f = open('a', 'wb')\nwhile True: f.write(b'x' * 2**20)", ("exit",), LATE),
    "large_hole": Bomb("open('a', 'wb').truncate(2**40)", ("exit",), LATE),
    "many_files": Bomb(
        "n = 0\nwhile True:\n    open(str(n), 'wb').write(b'x' * 2**20); n += 1",
        ("disk",),
        Limits(seconds=LATE.seconds, disk=32 * MB),
    ),
    "empty_files": Bomb(
        "n = 0\nwhile True:\n    open(str(n), 'wb'); n += 1", ("disk",), Limits(seconds=LATE.seconds, disk=8 * MB)
    ),
    "deleted_files": Bomb(
        "fs = []\nwhile True:\n    f = open('a', 'wb'); os.unlink('a'); f.write(b'x' * 2**22); f.flush(); fs.append(f)",
        ("disk",),
        Limits(seconds=LATE.seconds, disk=32 * MB),
    ),
    "deep_folders": Bomb("while True:\n    os.mkdir('d'); os.chdir('d')", ("disk",), Limits(seconds=LATE.seconds)),
    "closed_folder": Bomb(
        "os.mkdir('d'); open('d/f', 'w'); os.chmod('d', 0); time.sleep(600)", ("deadline", "disk", "exit")
    ),
    "files_beside_a_closed_folder": Bomb(  # which an ordinary user cannot look into: nobody knows how much there is
        "n = 0\nwhile True:\n    open(str(n), 'wb').write(b'x' * 2**20); n += 1",
        ("disk",),
        Limits(seconds=LATE.seconds, disk=32 * MB),
        first="os.mkdir('d', 0)",
    ),
    "descriptors": Bomb("fs = []\nwhile True: fs.append(os.open('/dev/null', 0))", ("exit",), LATE),
    "threads": Bomb(
        "while True: threading.Thread(target=time.sleep, args=(600,)).start()", ("exit", "memory", "deadline")
    ),
    "pipes": Bomb(
        "ps = []\nwhile True:\n    p = os.pipe(); os.write(p[1], b'x' * 65536); ps.append(p)", ("exit",), LATE
    ),
    "recursion": Bomb("sys.setrecursionlimit(10**9)\ndef f(): f()\nf()", ("exit", "memory", "deadline")),
    "crash": Bomb("os.kill(os.getpid(), signal.SIGSEGV)", ("exit",), LATE),
}


def set_off(tier: str, names: list[str]) -> dict[str, dict[str, object]]:
    """Run bombs in a tier, each in a sandbox of its own; return what became of them."""
    found = {}
    for name in names:
        bomb = BOMBS[name]
        token = f"agentgrpo-bomb-{tier}-{name}"
        with Sandbox(minimum="process", tier=tier, limits=bomb.limits) as sandbox:
            if bomb.first:
                sandbox.run_sync([sandbox.python_path, "-c", _START + bomb.first])
            start = time.monotonic()
            outcome = sandbox.run_sync([sandbox.python_path, "-c", _START + bomb.code, token])
            took = time.monotonic() - start
            left = running(token) + running("sleep\x00600")
            folder = Path(sandbox._folder.path)
        row = asdict(outcome) | {"output": outcome.output[-300:], "kept": len(outcome.output)}
        found[name] = row | {"took": took, "left": left, "folder_left": folder.exists()}
    return found


def running(token: str) -> list[int]:
    """Return the processes that have a text in their command, and are alive."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if token in path.read_bytes().decode(errors="replace"):
                state = path.with_name("stat").read_text().rsplit(")", 1)[1].split()[0]
                found += [int(path.parent.name)] if state not in "ZX" else []
    return found


if __name__ == "__main__":
    print(json.dumps({tier: set_off(tier, list(BOMBS)) for tier in sys.argv[1:]}))
