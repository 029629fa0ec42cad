"""A folder of runs for the tests of the inspector, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentgrpo.store import RunDirectory
from tests.viewer.shop_run import shop_run


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of the shop: 60 episodes each, in the second a tool breaks at step 2."""
    root = tmp_path_factory.mktemp("runs")
    shop_run(root, "first", look_every=3)
    shop_run(root, "second", look_every=3, breaks_at=2, config={"learner": {"learning_rate": 2e-3}})
    return root


@pytest.fixture(scope="session")
def run(root: Path) -> RunDirectory:
    """The run that goes well."""
    return next(RunDirectory(path=path) for path in root.iterdir() if path.name.startswith("first"))
