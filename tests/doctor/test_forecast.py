"""The forecast of memory against a run: a shortened demo, in processes of their own, measured by the system.

Of time, no: a warm start this short leaves a model that rambles, and its episodes are longer than demonstrations.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.small import ROOT

SHORT = {
    "warm_start.sft.episodes": 1500,
    "warm_start.sft.steps": 700,  # with fewer it fails at everything, and the learner has nothing to do
    "train.steps": 8,
    "eval.every": 4,
    "eval.during_tasks": 60,
    "learner.warmup_steps": 1,
}


class Used(NamedTuple):
    out: str
    peak: int  # bytes


def run(*words: str) -> Used:
    """Run a command and return what it said and what the system counted."""
    code = "from agentgrpo.cli.main import main; main()"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", code, *words], env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout as stream:
        out = stream.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, out
    unit = 1 if sys.platform == "darwin" else 1024
    return Used(out, usage.ru_maxrss * unit)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_peak_of_memory_is_as_forecast(tmp_path: Path) -> None:
    settings = {**SHORT, "model.path": tmp_path / "model", "train.runs": tmp_path / "runs"}
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    parts: dict[str, Any] = json.loads(run("doctor", "--json", *words).out)["parts"]
    assert not any(tmp_path.iterdir())
    memory = parts["memory"]["findings"][0]["values"]
    real = run("demo", *words)
    assert memory["middle"] == pytest.approx(real.peak, rel=0.25), (memory, real)
