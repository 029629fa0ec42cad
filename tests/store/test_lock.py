from __future__ import annotations

import os
from pathlib import Path

import pytest

from agentgrpo.errors import UserError
from agentgrpo.store.lock import RunLock


def test_one_holds_it_at_a_time(tmp_path: Path) -> None:
    with RunLock(tmp_path), pytest.raises(UserError, match=rf"is being trained by process {os.getpid()}"):
        RunLock(tmp_path)
    RunLock(tmp_path).close()


def test_what_is_left_of_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("4194304")
    RunLock(tmp_path).close()
    assert (tmp_path / ".lock").read_text() == str(os.getpid())
