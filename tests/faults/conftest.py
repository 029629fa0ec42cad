"""The fault table: every test here injects faults and says how many were survived and what was lost.

`make test` injects few of each; `make faults` injects many and writes `bench/results/faults.json`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pytest

from tests.faults.runs import Runs

RESULTS = Path(__file__).parents[2] / "bench" / "results" / "faults.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One row of the table. `lost` counts what the product had promised to keep: it must be 0."""

    name: str
    injected: int
    survived: int
    lost: int = 0


@dataclass(slots=True)
class Ledger:
    """What was injected, and what came of it."""

    faults: list[Fault] = field(default_factory=list)

    def record(self, name: str, *, injected: int, survived: int, lost: int = 0) -> None:
        """Note a row of the table, and fail unless every fault was survived and nothing was lost."""
        self.faults.append(Fault(name=name, injected=injected, survived=survived, lost=lost))
        assert injected > 0, f"{name}: no fault was injected"
        assert (survived, lost) == (injected, 0), f"{name}: {injected} injected, {survived} survived, {lost} lost"


@pytest.fixture(scope="session")
def is_full(pytestconfig: pytest.Config) -> bool:
    """Whether to inject as many faults as the table promises."""
    return bool(pytestconfig.getoption("--faults") == "full")


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    """What starts training in processes of their own, which a test may kill."""
    with Runs(tmp_path_factory.mktemp("processes")) as started:
        yield started


@pytest.fixture(scope="session")
def ledger(is_full: bool) -> Iterator[Ledger]:
    """The table all fault tests write to."""
    table = Ledger()
    yield table
    if is_full:
        RESULTS.write_text(json.dumps([asdict(f) for f in table.faults], indent=1) + "\n", encoding="utf-8")
