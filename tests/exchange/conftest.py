from __future__ import annotations

import pytest

from agentgrpo.store import RunDirectory
from tests.exchange.runs import play_shop


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A run of the shop: eight held-out tasks, seven of them solved."""
    return play_shop(tmp_path_factory.mktemp("shop"), 8)
