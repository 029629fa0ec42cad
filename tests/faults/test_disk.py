"""A disk that is full, wherever a run writes: one message, nothing lost, and after space is made it goes on."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentgrpo.config.run import load_config
from agentgrpo.errors import RunError, UserError
from agentgrpo.run.checkpoint import Checkpoints
from agentgrpo.run.report import SilentReporter
from agentgrpo.training import train
from tests.faults.conftest import Ledger
from tests.faults.runs import Runs, only_run, outcome, write_config
from tests.small import small_model

SILENT = SilentReporter()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.getbasetemp(), "lockbox")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MB, where the system lets us have one."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_small_disk_that_fills_up(
    runs: Runs, model: Path, tmp_path: Path, small_disk: Path, ledger: Ledger, is_full: bool
) -> None:
    config = write_config(model, small_disk / "runs", tmp_path / "run.toml", steps=2)
    whole = train(load_config(config), overrides=[f"train.runs={tmp_path}/runs"], reporter=SILENT)
    expected = outcome(whole.path)
    size = sum(p.stat().st_size for p in whole.path.rglob("*") if p.is_file() and not p.is_symlink())
    wanted, survived, stopped = 20 if is_full else 2, 0, 0
    for number in range(wanted):
        shutil.rmtree(small_disk / "runs", ignore_errors=True)
        fill(small_disk, 20_000 + number * size // wanted)
        child = runs.start("cli", "train", config)
        code = child.wait()
        assert "Traceback" not in child.errors + child.output, child.errors
        stopped += code != 0
        if code:
            assert code in (1, 2)
            told = ("No space left", "disk is full", "disk I/O error")  # the last where a little is free again
            assert any(text in child.errors for text in told) and "Free space" in child.errors, child.errors
        (small_disk / "ballast").unlink()
        begun = [record.parent for record in (small_disk / "runs").glob("*/run.json")]
        if not begun:
            shutil.rmtree(small_disk / "runs", ignore_errors=True)
        again = runs.start("cli", "train", *(["--resume", *begun] if begun else [config]))
        assert again.wait() == 0 or "is finished" in again.errors, again.errors
        survived += outcome(only_run(small_disk / "runs")) == expected
    assert stopped
    ledger.record("a disk that fills up during a run", injected=wanted, survived=survived)


def fill(disk: Path, room: int) -> None:
    """Leave this many bytes."""
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    (disk / "ballast").write_bytes(bytes(max(0, free - room)))


def test_every_write_that_is_flushed(
    model: Path, tmp_path: Path, ledger: Ledger, is_full: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(write_config(model, tmp_path / "runs", tmp_path / "run.toml", steps=2))
    calls = Fsync(fails_at=None)
    monkeypatch.setattr(os, "fsync", calls)
    run = train(config, reporter=SILENT)
    expected, count = outcome(run.path), calls.count
    places = range(1, count + 1) if is_full else (1, count // 2, count)
    survived = 0
    for place in places:
        shutil.rmtree(tmp_path / "runs")
        monkeypatch.setattr(os, "fsync", Fsync(fails_at=place))
        with pytest.raises(RunError, match=r"cannot be written to '.*': No space left on device\. Free space"):
            train(config, reporter=SILENT)
        monkeypatch.setattr(os, "fsync", Fsync(fails_at=None))
        survived += outcome(go_on(config, tmp_path / "runs")) == expected
    ledger.record("no space left at a write that is flushed", injected=len(places), survived=survived)


def go_on(config: Any, runs: Path) -> Path:
    """Resume the run that is there, or begin it anew when it had not begun."""
    if not list(runs.iterdir()):
        return train(config, reporter=SILENT).path
    try:
        return train(resume=only_run(runs), reporter=SILENT).path
    except UserError as error:
        assert "is finished" in str(error)
        return only_run(runs)


class Fsync:
    """Fails once, at a given call."""

    def __init__(self, *, fails_at: int | None) -> None:
        self.fails_at, self.count = fails_at, 0

    def __call__(self, handle: int) -> None:
        self.count += 1
        if self.count == self.fails_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("site", ["curve", "metrics"])
def test_the_writes_that_are_not(
    model: Path, tmp_path: Path, ledger: Ledger, site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(write_config(model, tmp_path / "runs", tmp_path / "run.toml", steps=2))

    def full(*args: Any, **kwargs: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        where = "agentgrpo.store.curve._save" if site == "curve" else "agentgrpo.store.run.Metrics._append"
        patch.setattr(where, full)
        with pytest.raises(RunError, match=rf"{site}\.\w+ cannot be written to '.*': No space left on device"):
            train(config, reporter=SILENT)
    run = only_run(tmp_path / "runs")
    assert Checkpoints(folder=run / "checkpoints", keep=2).newest()[0] is not None
    assert train(resume=run, reporter=SILENT).summary["train_steps"] == 2
    ledger.record(f"no space left for {site}", injected=1, survived=1)
