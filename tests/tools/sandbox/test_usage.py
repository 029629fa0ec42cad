from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agentgrpo.family import descendants
from agentgrpo.tools.sandbox import usage

needs_linux = pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux")
MB = 2**20


def test_disk_is_what_files_take_not_what_they_say(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/full").write_bytes(b"x" * MB)
    with (tmp_path / "hole").open("wb") as file:
        file.truncate(2**40)
    (tmp_path / "link").symlink_to("/usr")
    assert MB <= usage.disk_of(str(tmp_path)) <= MB + 5 * 4096


def test_files_without_content_count_too(tmp_path: Path) -> None:
    for number in range(100):
        (tmp_path / str(number)).touch()
    assert usage.disk_of(str(tmp_path)) >= 100 * 4096


def test_what_cannot_be_counted_is_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "_MOST_ENTRIES", 10)
    for number in range(11):
        (tmp_path / str(number)).touch()
    assert usage.disk_of(str(tmp_path)) == math.inf
    if os.geteuid() != 0:
        (tmp_path / "closed").mkdir(mode=0)
        assert usage.disk_of(str(tmp_path)) == math.inf
    assert usage.disk_of(str(tmp_path / "gone")) == 0


@needs_linux
def test_shared_memory_counts_once(tmp_path: Path) -> None:
    code = (
        "import os, sys, time\na = bytearray(64 * 2**20)\nfor i in range(0, len(a), 4096): a[i] = 1\n"
        "for _ in range(3):\n    if os.fork() == 0: time.sleep(60)\nprint(flush=True)\ntime.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        pids = [process.pid, *descendants(process.pid)]
        estimate, exact = usage.memory_of(pids, 10**12), usage.memory_of(pids, 200 * MB)
        os.killpg(process.pid, 9)
    assert len(pids) == 4
    assert estimate > 4 * 64 * MB  # far from the limit that will do
    assert 64 * MB < exact < 128 * MB
    assert usage.memory_of([10**9], 0) == 0  # nobody


@needs_linux
def test_files_without_a_name_are_found_while_they_are_open(tmp_path: Path) -> None:
    with (tmp_path / "a").open("wb") as file:
        file.write(b"x" * MB)
        file.flush()
        os.fsync(file.fileno())
        before = usage.deleted_by([os.getpid()])
        (tmp_path / "a").unlink()
        with os.fdopen(os.dup(file.fileno()), "wb"):
            assert usage.deleted_by([os.getpid(), os.getpid()]) - before == MB  # once, however often it is open
    assert usage.deleted_by([os.getpid()]) == before
