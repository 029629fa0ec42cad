"""Runs in processes that can be killed, forked from one that has imported everything: importing takes seconds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from agentgrpo.cli.main import main
from agentgrpo.config.run import load_config
from agentgrpo.run.checkpoint import Checkpoints
from agentgrpo.store import EpisodeReader, EpisodeStore
from agentgrpo.training import train
from agentgrpo.types import Trajectory
from tests.small import ROOT, small_run

SECONDS = 100.0


class Runs:
    """Starts `agentgrpo` with some words, in a process of its own. Use as a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.child: Child | None = None
        self._zygote = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.runs"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Runs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end_child()
        for pipe in (self._zygote.stdin, self._zygote.stdout):
            assert pipe is not None
            pipe.close()
        self._zygote.wait(SECONDS)

    def start(self, what: str, *words: object) -> Child:
        """Start "cli" with the words of a command line, or "checkpoints" with a folder; return when it runs."""
        job = {"what": what, "words": [str(w) for w in words], "folder": str(self.folder)}
        self._end_child()
        for name in ("out.txt", "err.txt"):
            (self.folder / name).write_text("")
        self.child = Child(pid=int(self._ask(json.dumps(job))), folder=self.folder, ask=self._ask)
        return self.child

    def _end_child(self) -> None:
        if self.child is not None and self.child.is_running:  # its test has failed
            self.child.send(signal.SIGKILL)
            self.child.wait()

    def _ask(self, line: str) -> str:
        assert self._zygote.stdin is not None
        assert self._zygote.stdout is not None
        self._zygote.stdin.write(line + "\n")
        self._zygote.stdin.flush()
        return self._zygote.stdout.readline()


class Child:
    """A process that runs."""

    def __init__(self, *, pid: int, folder: Path, ask: Callable[[str], str]) -> None:
        self.pid, self.folder, self._ask = pid, folder, ask
        self.started = time.monotonic()
        self.is_running = True

    def send(self, number: int) -> None:
        """Send a signal; one that has ended gets none (it is not reaped before `wait`)."""
        os.kill(self.pid, number)

    def wait_for(self, condition: Callable[[], object]) -> None:
        """Return when a condition holds; end the child and fail when it never does."""
        deadline = time.monotonic() + SECONDS
        while not condition():
            if time.monotonic() > deadline:
                self.send(signal.SIGKILL)
                raise AssertionError(f"exit code {self.wait()} after {SECONDS:g} s:\n{self.output}\n{self.errors}")
            time.sleep(0.01)

    def wait(self) -> int:
        """Return the exit code, minus the signal's number when one killed it."""
        code = int(self._ask("wait"))
        self.is_running = False
        return code

    @property
    def output(self) -> str:
        return (self.folder / "out.txt").read_text()

    @property
    def errors(self) -> str:
        return (self.folder / "err.txt").read_text()

    @property
    def acknowledged(self) -> list[str]:
        """What it said is durable, one line each."""
        path = self.folder / "acks.txt"
        return path.read_text().split("\n")[:-1] if path.exists() else []


def write_config(model: Path, runs: Path, path: Path, **train: Any) -> Path:
    """Write the configuration of a run short enough to be killed often, at many of its moments."""
    config = small_run(model, runs)
    config["train"] |= {"steps": 4, "checkpoint_every": 1, **train}
    config["eval"] |= {"every": 2}
    path.write_text(load_config(config).to_toml())
    return path


def only_run(runs: Path) -> Path:
    """Return the one run in a folder."""
    (run,) = runs.iterdir()
    return run


def outcome(run: Path) -> dict[str, Any]:
    """Return what two equal runs have in common."""
    last = run / "checkpoints" / "last"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    with EpisodeReader(run / "episodes.sqlite") as reader:
        rows = reader.list(limit=10_000)
    return {
        "adapter": (last / "adapter_model.safetensors").read_bytes(),
        "optimizer": (last / "optimizer.safetensors").read_bytes(),
        "sampler": json.loads((last / "trainer.json").read_text())["progress"]["sampler"],
        "metrics": [{k: v for k, v in line.items() if not k.startswith(("time", "trouble"))} for line in lines],
        "curve": (run / "curve.png").read_bytes(),
        "episodes": sorted((str(row.key), row.reward, row.tokens, row.advantage) for row in rows),
    }


def stored(run: Path) -> set[str]:
    """Return the keys of the episodes in a run's file."""
    with EpisodeReader(run / "episodes.sqlite") as reader:
        return {str(row.key) for row in reader.list(limit=10_000)}


def _serve() -> None:
    """Fork a child for every line, say its process id and how it ended; in a child, return to run it."""
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            return _be(json.loads(line))
        print(pid, flush=True)
        sys.stdin.readline()  # until it is asked for, its process id is nobody else's
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
    return None


def _be(job: dict[str, Any]) -> None:
    folder = Path(job["folder"])
    for stream, name in ((1, "out.txt"), (2, "err.txt")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell started in the background
    acks = os.open(folder / "acks.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    if job["what"] == "checkpoints":
        return _write_checkpoints(Path(job["words"][0]), acks)
    _acknowledge(acks)
    sys.argv = ["agentgrpo", *job["words"]]
    return main()


def _acknowledge(acks: int) -> None:
    """Say which episodes the store has said to be durable."""
    add = EpisodeStore.add

    async def told(self: EpisodeStore, trajectories: list[Trajectory]) -> None:
        await add(self, trajectories)
        os.write(acks, "".join(f"{t.key}\n" for t in trajectories).encode())

    EpisodeStore.add = told  # type: ignore[method-assign,assignment]


def _write_checkpoints(folder: Path, acks: int) -> None:
    checkpoints = Checkpoints(folder=folder, keep=2)
    checkpoints.sweep()
    found, _ = checkpoints.newest()
    step = int(found.name.removeprefix("step-")) if found else 0
    while True:
        step += 1
        data = bytes([step % 256]) * 500_000

        def write(target: Path, data: bytes = data) -> None:
            for name in ("adapter_model.safetensors", "optimizer.safetensors"):
                (target / name).write_bytes(data)

        checkpoints.save(step, write)
        os.write(acks, f"{step}\n".encode())


if __name__ == "__main__":
    assert callable(train)  # imported, so that the children need not
    _serve()
