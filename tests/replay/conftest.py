"""What the tests of stepping back share: a run that was really trained."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from agentgrpo.report import SilentReporter
from agentgrpo.store import RunDirectory
from agentgrpo.training import train
from tests.small import small_model, small_run


@pytest.fixture(scope="session")
def as_trained(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A small run that trained three steps, with a checkpoint of each. It is only read."""
    model = small_model(tmp_path_factory.getbasetemp(), "lockbox")
    config = small_run(model, tmp_path_factory.mktemp("trained"), eval={"tasks": 2, "every": 0})
    config["model"] |= {"lora": {"rank": 4, "dropout": 0.1}}
    config["rollout"] |= {"group_size": 6}
    config["train"] |= {"steps": 3, "keep_checkpoints": 3, "checkpoint_every": 1}
    return RunDirectory(path=train(config, reporter=SilentReporter()).path)


@pytest.fixture(scope="module")
def trained(as_trained: RunDirectory, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A copy of it, to add forks to."""
    return copied(as_trained, tmp_path_factory.mktemp("forked"))


@pytest.fixture
def own(as_trained: RunDirectory, tmp_path: Path) -> RunDirectory:
    """A copy of it, to spoil."""
    return copied(as_trained, tmp_path)


def copied(run: RunDirectory, folder: Path) -> RunDirectory:
    return RunDirectory(path=Path(shutil.copytree(run.path, folder / run.path.name, symlinks=True)))
