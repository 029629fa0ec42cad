"""Room on the disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentgrpo.doctor.disk import needed, room
from agentgrpo.doctor.report import Level


@pytest.mark.parametrize(
    ("wanted", "free", "level"), [(10.0, 100, Level.OK), (60.0, 100, Level.WARN), (101.0, 100, Level.FAIL)]
)
def test_room_is_ample_tight_or_missing(wanted: float, free: int, level: Level) -> None:
    (found,) = room(wanted, free, "8 episodes", Path("runs"))
    assert found.level is level
    assert bool(found.fix) is (level is not Level.OK)


def test_what_a_run_leaves_grows_with_episodes_and_checkpoints() -> None:
    assert needed(100, 3000.0, 0.0, 2) - needed(0, 3000.0, 0.0, 2) == 300_000
    assert needed(0, 0.0, 1e6, 3) > needed(0, 0.0, 1e6, 2) > needed(0, 0.0, 0.0, 2) > 0
