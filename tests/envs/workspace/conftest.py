from __future__ import annotations

from collections.abc import Iterator

import pytest

from agentgrpo.envs.workspace.env import Workspace


@pytest.fixture(scope="module")
def office() -> Iterator[Workspace]:
    env = Workspace()
    yield env
    env.close()
