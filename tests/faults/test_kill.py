"""kill -9 at random moments: of a run, and of what writes checkpoints."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from agentgrpo.run.checkpoint import Checkpoints, damage
from tests.faults.conftest import Ledger
from tests.faults.runs import Child, Runs, only_run, outcome, stored, write_config
from tests.small import small_model


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("config")
    model = small_model(tmp_path_factory.getbasetemp(), "lockbox")
    return write_config(model, folder / "runs", folder / "run.toml")


def forget(config: Path) -> Path:
    """Return the folder of the runs, empty."""
    folder = config.parent / "runs"
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def start(runs: Runs, config: Path) -> Child:
    """Start a run, or go on with the one that is there."""
    begun = [record.parent for record in (config.parent / "runs").glob("*/run.json")]
    if not begun:
        forget(config)
    return runs.start("cli", "train", *(["--resume", *begun] if begun else [config]))


def test_a_run_killed_again_and_again(runs: Runs, config: Path, ledger: Ledger, is_full: bool) -> None:
    folder = forget(config)
    whole = start(runs, config)
    assert whole.wait() == 0, whole.errors
    seconds = time.monotonic() - whole.started
    expected = outcome(only_run(folder))
    wanted, kills, lost, rng = 20 if is_full else 2, 0, 0, random.Random(1)
    child = whole
    while kills < wanted:
        forget(config)
        (runs.folder / "acks.txt").unlink()
        is_killed = True
        while is_killed and kills < wanted:  # the same run, until it gets to its end
            known = len(child.acknowledged)
            child = start(runs, config)
            time.sleep(rng.uniform(0.1, 1.0) * seconds)
            child.send(signal.SIGKILL)
            code = child.wait()
            is_killed = code == -signal.SIGKILL  # perhaps after its end: then the next one says that it is finished
            assert is_killed or code == 0 or "is finished" in child.errors, child.errors
            kills += is_killed
            if len(child.acknowledged) > known:
                lost += len(set(child.acknowledged[known:]) - stored(only_run(folder)))
        last = start(runs, config)
        assert last.wait() == 0 or "is finished" in last.errors, last.errors
        run = only_run(folder)
        assert outcome(run) == expected
        lost += len(set(child.acknowledged) - stored(run))
        assert json.loads((run / "run.json").read_text())["exact"] is True
    ledger.record("kill -9 of a training run", injected=kills, survived=kills, lost=lost)


def has_more(child: Child, known: int) -> bool:
    """Whether more was acknowledged."""
    return len(child.acknowledged) > known


def test_checkpoints_killed_while_they_are_written(runs: Runs, tmp_path: Path, ledger: Ledger, is_full: bool) -> None:
    checkpoints, rng = Checkpoints(folder=tmp_path / "checkpoints", keep=2), random.Random(2)
    wanted, lost = 100 if is_full else 10, 0
    (runs.folder / "acks.txt").unlink(missing_ok=True)
    for _ in range(wanted):
        child = runs.start("checkpoints", checkpoints.folder)
        before = len(child.acknowledged)
        child.wait_for(partial(has_more, child, before))
        time.sleep(rng.uniform(0, 0.1))
        child.send(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        newest, damaged = checkpoints.newest()
        assert (newest is not None, damaged) == (True, {})
        for link in ("last", *(p.name for p in checkpoints.folder.glob("step-*"))):
            path = checkpoints.path(link)
            assert path is not None
            assert damage(path) is None
        assert newest is not None
        lost += int(newest.name.removeprefix("step-")) < int(child.acknowledged[-1])
    ledger.record("kill -9 while a checkpoint is written", injected=wanted, survived=wanted, lost=lost)
