"""A side of a comparison: a process that trains, and makes its steps only when told. Standard library only.

The other side may live in another environment, without this project's packages.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
THREADS = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "TRL_EXPERIMENTAL_SILENCE": "1",
}

Facts = dict[str, Any]


class Side:
    """The end that tells: starts `python -m module '<settings>'` and asks it for steps."""

    def __init__(self, python: str, module: str, settings: Mapping[str, Any]) -> None:
        self.name = module
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by close)
        self._process = subprocess.Popen(
            [python, "-m", module, json.dumps(settings)],
            cwd=ROOT,
            env=os.environ | THREADS,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def ready(self) -> None:
        """Wait until it has made its first step, which warms it up."""
        self._read()

    def steps(self, count: int) -> list[Facts]:
        """Let it make train steps and return what each took and did."""
        assert self._process.stdin is not None
        print(count, file=self._process.stdin, flush=True)
        return [self._read() for _ in range(count)]

    def close(self) -> None:
        """Let it end, or end it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def _read(self) -> Facts:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._log.seek(0)
            raise SystemExit(f"{self.name} ended early:\n{self._log.read()[-3000:]}")
        facts: Facts = json.loads(line)
        return facts


class Gate:
    """The end that trains: lets through as many steps as asked for, and measures them."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # what a library prints is no answer
        self._left = 1

    def begin(self) -> None:
        """Start the clocks."""
        self._clock, self._cpu = time.perf_counter(), time.process_time()

    def step_done(self, facts: Facts) -> None:
        """Report a train step; hold when it was the last that was asked for."""
        taken = {"seconds": time.perf_counter() - self._clock, "cpu": time.process_time() - self._cpu}
        print(json.dumps(taken | facts), file=self._out, flush=True)
        self._left -= 1
        if not self._left:
            line = sys.stdin.readline()
            if not line:
                raise SystemExit("told no more")
            self._left = int(line)
        self.begin()
