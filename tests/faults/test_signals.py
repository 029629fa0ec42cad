"""Ctrl-C and SIGTERM at random moments: a checkpoint in seconds, the right exit code, and the same end as without."""

from __future__ import annotations

import random
import shutil
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agentgrpo.run.checkpoint import Checkpoints
from agentgrpo.run.stopping import GRACE_SECONDS
from agentgrpo.store import RunDirectory
from tests.faults.conftest import Ledger
from tests.faults.runs import Child, Runs, only_run, outcome, write_config
from tests.small import small_model

SECONDS = 60.0  # between the signal and the end, on any machine


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.getbasetemp(), "lockbox")


def stop(child: Child, number: int) -> float:
    """Send a signal and return how long the end took."""
    clock = time.monotonic()
    child.send(number)
    assert child.wait() == 128 + number, child.output + child.errors
    return time.monotonic() - clock


def has_made(child: Child, episodes: int) -> bool:
    """Whether so many episodes were acknowledged."""
    return len(child.acknowledged) >= episodes


def check(child: Child, run: Path) -> None:
    """Check what a stopped run leaves: a whole checkpoint, a record, and what to type."""
    record: dict[str, Any] = RunDirectory.open(run).read_record()
    assert record["status"] == "interrupted"
    found, damaged = Checkpoints(folder=run / "checkpoints", keep=2).newest()
    assert found is not None
    assert not damaged
    said = child.output.splitlines()
    assert said[-2].startswith("stopped after step ")
    assert f"train --resume {run}" in said[-1]
    assert "Traceback" not in child.errors


def test_stopped_at_random_moments(runs: Runs, model: Path, tmp_path: Path, ledger: Ledger, is_full: bool) -> None:
    config = write_config(model, tmp_path / "runs", tmp_path / "run.toml", checkpoint_every=100)
    (runs.folder / "acks.txt").unlink(missing_ok=True)
    whole = runs.start("cli", "train", config)
    assert whole.wait() == 0, whole.errors
    episodes, expected = len(whole.acknowledged), outcome(only_run(tmp_path / "runs"))
    wanted, survived, late, rng = 10 if is_full else 1, 0, 0, random.Random(3)
    while survived < wanted:
        shutil.rmtree(tmp_path / "runs")
        (runs.folder / "acks.txt").unlink()
        child = runs.start("cli", "train", config)
        child.wait_for(lambda: list((tmp_path / "runs").glob("*/checkpoints/last")))  # else there is nothing to keep
        child.wait_for(partial(has_made, child, rng.randrange(episodes * 3 // 4)))
        time.sleep(rng.uniform(0, 0.05))
        run = only_run(tmp_path / "runs")
        if (run / "summary.json").exists():  # too late
            assert child.wait() == 0
            continue
        late += stop(child, signal.SIGTERM if survived % 2 else signal.SIGINT) > SECONDS
        check(child, run)
        again = runs.start("cli", "train", "--resume", run)
        assert again.wait() == 0, again.errors
        assert outcome(run) == expected
        survived += 1
    ledger.record("Ctrl-C and SIGTERM at random moments", injected=survived, survived=survived - late)


HANGS = '''
import sys, time
import agentgrpo as ag

class Hangs(ag.ToolEnv):
    """Never comes back."""

    metadata = {"isolation": "HOW"}

    @classmethod
    def tasks(cls, split="train"):
        return [{"task_id": f"{split}-{i}"} for i in range(4)]

    def reset_task(self, task):
        print("hanging", file=sys.stderr, flush=True)  # others may begin to hang when the run has said its last words
        BODY

    @ag.tool
    def wait(self) -> str:
        """Wait."""
        return ""

    def reward(self):
        return 0.0
'''


def hang(runs: Runs, model: Path, folder: Path, how: str, body: str) -> Child:
    """Start a run whose environment never comes back, and return when it hangs."""
    (folder / "hangs.py").write_text(HANGS.replace("HOW", how).replace("BODY", body))
    config = write_config(model, folder / "runs", folder / "run.toml")
    text = config.read_text().replace('env = "lockbox"', f'env = "{folder}/hangs.py:Hangs"').replace("turns = 2", "")
    config.write_text(text)
    child = runs.start("cli", "train", config)
    child.wait_for(lambda: "hanging" in child.errors)
    return child


@pytest.mark.parametrize("how", ["thread", "inline", "process"])
def test_stopped_in_a_tool_that_hangs(runs: Runs, model: Path, tmp_path: Path, ledger: Ledger, how: str) -> None:
    child = hang(runs, model, tmp_path, how, "time.sleep(1000)")
    seconds = stop(child, signal.SIGTERM)
    check(child, only_run(tmp_path / "runs"))
    ledger.record(f"SIGTERM in a hung {how} environment", injected=1, survived=int(seconds <= SECONDS))


def test_a_second_signal_ends_it_at_once(runs: Runs, model: Path, tmp_path: Path, ledger: Ledger) -> None:
    child = hang(runs, model, tmp_path, "inline", "while True: pass")
    child.send(signal.SIGINT)
    time.sleep(0.2)
    assert stop(child, signal.SIGINT) < GRACE_SECONDS - 1  # sooner than the first would have ended it
    ledger.record("a second Ctrl-C", injected=1, survived=1)
