"""What is read from the operating system."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from agentgrpo.doctor import machine


def test_memory_is_that_of_the_machine_or_of_its_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    whole = machine.memory()
    assert 0 < whole.available <= whole.total == whole.limit
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.memory().limit == whole.total
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("400000\n")
    capped = machine.memory()
    assert (capped.limit, capped.available, capped.is_container) == (1_000_000, 600_000, True)


@pytest.mark.parametrize(("quota", "expected"), [("50000 100000", 0.5), ("max 100000", None), ("", None)])
def test_cores_are_bounded_by_a_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, expected: float | None
) -> None:
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    whole = machine.cores()
    (tmp_path / "cpu.max").write_text(quota)
    assert machine.cores() == (whole if expected is None else expected)


def test_a_peak_is_seen_after_the_memory_is_gone() -> None:
    with machine.watch_peak() as peak:
        size = len(bytes(64_000_000).replace(b"\0", b"\1"))
    assert peak.bytes >= size
    if peak.is_own:
        assert peak.added >= 0.8 * size


def test_a_stopwatch_counts_no_more_than_the_wall() -> None:
    watch = machine.Stopwatch()
    time.sleep(0.02)
    sum(range(200_000))
    assert 0 < watch.seconds <= watch.wall  # what others took of the wall is left out


def test_disk_and_sizes(tmp_path: Path) -> None:
    assert machine.disk_free(tmp_path / "not" / "there") == pytest.approx(machine.disk_free(tmp_path), rel=0.1)
    assert [machine.size(n) for n in (900, 12_345_678, 2.34e9)] == ["1 kB", "12 MB", "2.3 GB"]
