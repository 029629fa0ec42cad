from __future__ import annotations

from pathlib import Path

import pytest

from agentgrpo.errors import RunError
from agentgrpo.store.verdicts import VerdictStore, judge_costs


def test_what_is_put_is_there_for_the_next_process(tmp_path: Path) -> None:
    path = tmp_path / "v.sqlite"
    with VerdictStore(path) as store:
        assert (store.get("a"), store.spent()) == (None, (0, 0))
        store.put("a", "yes \ud800")
        store.put("b", "no")
        store.put("b", "perhaps")
        store.spend(calls=1)
        store.spend(tokens=15)
    with VerdictStore(path) as store:
        assert (store.get("a"), store.get("b"), store.spent()) == ("yes ?", "perhaps", (1, 15))
        assert judge_costs(path) == {"calls": 1, "tokens": 15}
        store.close()


def test_a_run_without_a_judge_has_no_costs(tmp_path: Path) -> None:
    assert judge_costs(tmp_path / "v.sqlite") is None
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_none_is_told(tmp_path: Path) -> None:
    path = tmp_path / "v.sqlite"
    path.write_bytes(b"no database at all" * 99)
    with pytest.raises(RunError, match=r"verdicts cannot be written to .*v\.sqlite"):
        VerdictStore(path)
    costs = judge_costs(path)
    assert costs is not None
    assert "file is not a database" in costs["problem"]
