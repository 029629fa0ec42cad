"""What the tests of stepping back share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from agentgrpo.store import RunDirectory


@pytest.fixture(scope="module")
def trained(as_trained: RunDirectory, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A copy of a run that was really trained, to add forks to."""
    folder = tmp_path_factory.mktemp("forked") / as_trained.path.name
    return RunDirectory(path=Path(shutil.copytree(as_trained.path, folder, symlinks=True)))
