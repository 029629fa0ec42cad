"""Landlock as older kernels have it: a newer one takes their rule sets too."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from agentgrpo.tools.sandbox import landlock

ROOT = Path(__file__).parents[3]
CODE = """
import json, os, sys
from agentgrpo.tools.sandbox import kernel, landlock
abi, work, secret = int(sys.argv[1]), sys.argv[2], sys.argv[3]
kernel.no_new_privileges()
landlock.restrict(abi=abi, readable=["/usr", "/lib", "/nowhere"], writable=[work], devices=["/dev/null"])
def tried(action):
    try: action()
    except OSError as error: return type(error).__name__
    return "done"
os.chdir(work)
os.mkdir("a"); os.mkdir("b"); open("a/f", "w").close()
print(json.dumps({
    "read": tried(lambda: open(secret)),
    "append": tried(lambda: open(secret, "a")),
    "make": tried(lambda: open(secret + "2", "w")),
    "truncate": tried(lambda: os.truncate(secret, 0)),
    "usr": tried(lambda: os.listdir("/usr")),
    "null": tried(lambda: open("/dev/null", "w")),
    "signal": tried(lambda: os.kill(os.getppid(), 0)),
    "rename": tried(lambda: os.rename("a/f", "a/g")),
    "move": tried(lambda: os.rename("a/g", "b/g")),
}))
"""


@pytest.mark.skipif(landlock.version() == 0, reason="no Landlock in this kernel")
@pytest.mark.parametrize("abi", range(1, 8))
def test_every_version_holds_what_it_knows(abi: int, tmp_path: Path) -> None:
    if abi > landlock.version():
        pytest.skip(f"this kernel has version {landlock.version()}")
    (tmp_path / "work").mkdir()
    secret = tmp_path / "secret"
    secret.write_text("secret")
    argv = [sys.executable, "-c", CODE, str(abi), str(tmp_path / "work"), str(secret)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    refused = {"read", "append", "make"} | ({"truncate"} if abi >= 3 else set()) | ({"signal"} if abi >= 6 else set())
    allowed = {"usr", "null", "rename"} | ({"move"} if abi >= 2 else set())
    assert {name for name in refused if found[name] != "PermissionError"} == set()
    assert {name for name in allowed if found[name] != "done"} == set()
