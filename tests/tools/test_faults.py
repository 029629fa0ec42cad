from __future__ import annotations

from collections import Counter
from statistics import median
from typing import Any

import pytest

from agentgrpo.errors import UserError
from agentgrpo.tools.faults import Faults

RATES: dict[str, Any] = {"too_many": 0.1, "errors": 0.2, "hangs": 0.05, "resets": 0.15}


def test_faults_are_a_function_of_seed_session_and_number() -> None:
    faults, other = Faults(seed=1, latency=0.1, spread=1.0, **RATES), Faults(seed=2, latency=0.1, spread=1.0, **RATES)

    def drawn(faults: Faults, session: str) -> list[Any]:
        return [faults.draw(session, number) for number in range(50)]

    assert drawn(faults, "a") == drawn(faults, "a")
    assert len({str(drawn(faults, "a")), str(drawn(faults, "b")), str(drawn(other, "a"))}) == 3


def test_faults_are_as_frequent_as_their_rates() -> None:
    drawn = [Faults(**RATES).draw("s", number) for number in range(20_000)]
    share = {kind: count / len(drawn) for kind, count in Counter(fault.kind for fault in drawn).items()}
    expected = {"too_many": 0.1, "error": 0.2, "hang": 0.05, "reset": 0.15, "none": 0.5}
    assert share == pytest.approx(expected, abs=0.01)
    resets = [fault for fault in drawn if fault.kind == "reset"]
    assert sum(fault.is_after for fault in resets) / len(resets) == pytest.approx(0.5, abs=0.05)
    assert not any(fault.is_after for fault in drawn if fault.kind in ("none", "too_many"))


def test_nothing_goes_wrong_unless_it_is_asked_for() -> None:
    assert {Faults().draw("s", number) for number in range(100)} == {Faults().draw("s", 0)}
    assert (Faults().draw("s", 0).kind, Faults().draw("s", 0).latency) == ("none", 0.0)


def test_latency_is_constant_or_log_normal_around_its_median() -> None:
    assert {Faults(latency=0.2).draw("s", number).latency for number in range(100)} == {0.2}
    spread = [Faults(latency=0.2, spread=1.0).draw("s", number).latency for number in range(5000)]
    assert median(spread) == pytest.approx(0.2, rel=0.1)
    assert sorted(spread)[int(0.841 * 5000)] == pytest.approx(0.2 * 2.718, rel=0.1)  # one sigma up


@pytest.mark.parametrize("given", [{"errors": -0.1}, {"errors": 0.6, "resets": 0.6}, {"latency": -1}, {"spread": -1}])
def test_what_cannot_be_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"rates of faults|cannot be below 0"):
        Faults(**given)
