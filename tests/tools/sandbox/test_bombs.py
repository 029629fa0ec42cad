"""Commands that hang, explode or fork: over at their deadline, nothing left of them, and no more used than allowed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agentgrpo.tools.sandbox import TIERS, examine
from tests.tools.sandbox.bombs import BOMBS, set_off
from tests.tools.sandbox.users import ordinary

pytestmark = pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux")
QUICK = ["daemon", "undead_daemon", "fork_and_vanish_many", "flood_1_gb", "many_files", "descriptors", "deleted_files"]
QUICK += ["files_beside_a_closed_folder"]
MARGIN = 60.0  # seconds after the deadline, on a busy machine; by itself none of them ends
SPARE = 100  # characters of the mark where output was left out


def wrong(found: dict[str, dict[str, object]]) -> dict[str, dict[str, object]]:
    """Return those that did not end as they have to."""
    return {name: row for name, row in found.items() if not _is_right(name, row)}


def _is_right(name: str, row: dict[str, object]) -> bool:
    bomb = BOMBS[name]
    return (
        row["ended"] in bomb.ends
        and float(str(row["took"])) <= bomb.limits.seconds + MARGIN
        and row["left"] == []
        and row["folder_left"] is False
        and int(str(row["kept"])) <= bomb.limits.output + SPARE
    )


def _skip_without(tier: str) -> None:
    if missing := examine(tier).missing:
        pytest.skip(missing)


@pytest.mark.parametrize("tier", TIERS)
def test_some_end_in_every_tier(tier: str) -> None:
    _skip_without(tier)
    assert wrong(set_off(tier, QUICK)) == {}


@pytest.mark.slow
@pytest.mark.parametrize("tier", TIERS)
def test_all_end_in_every_tier(tier: str) -> None:
    _skip_without(tier)
    assert wrong(set_off(tier, list(BOMBS))) == {}


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user runs these tests anyway")
@pytest.mark.parametrize("tier", TIERS)
def test_all_end_for_an_ordinary_user(tier: str) -> None:
    _skip_without(tier)
    assert wrong(ordinary().run("tests.tools.sandbox.bombs", tier)[tier]) == {}
