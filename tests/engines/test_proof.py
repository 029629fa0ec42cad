"""The verdict on a delivery, from numbers alone."""

from __future__ import annotations

from math import nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgrpo.engines.proof import Canary, Proof, proof_metrics, prove
from agentgrpo.errors import EngineFailure
from agentgrpo.tolerances import LOGPROB_TOLERANCE, Tolerance
from agentgrpo.types import Policy

FINE = LOGPROB_TOLERANCE["float32"]
NEW = Canary(token_ids=(1, 2, 3), logprobs=(-1.0, -2.0))
OLD = Canary(token_ids=(1, 2, 3), logprobs=(-1.0, -2.5))


def judge(
    measured: tuple[float, ...], canary: Canary = NEW, before: Canary | None = OLD, tolerance: Tolerance = FINE
) -> Proof:
    return prove(
        measured, canary, before, tolerance=tolerance, policy=Policy(version=7), server="server 3", seconds=0.5
    )


def test_an_engine_that_says_what_the_learner_says_is_proved() -> None:
    proof = judge((-1.00002, -2.0))
    assert (proof.verdict, proof.policy, proof.server, proof.seconds) == ("proved", Policy(version=7), "server 3", 0.5)
    assert proof.difference == pytest.approx(2e-5)
    assert proof.previous == pytest.approx(0.5)


@pytest.mark.parametrize(
    "before",
    [None, Canary((1, 2, 3), (-1.0, -2.0003)), Canary((1, 2, 9), (-1.0, -2.5))],
    ids=["first", "hardly changed", "another text"],
)
def test_versions_that_say_the_same_cannot_be_told_apart(before: Canary | None) -> None:
    assert judge((-1.0, -2.0), before=before).verdict == "indistinguishable"


def test_an_old_version_is_named_as_such() -> None:
    with pytest.raises(EngineFailure, match=r"server 3 does not answer with policy-v7: .* up to 0\.5 .*the version be"):
        judge(OLD.logprobs)


@pytest.mark.parametrize("measured", [(-1.0, nan), (nan, -2.0), (-1.0, -2.1)])
def test_numbers_of_something_else_fail(measured: tuple[float, ...]) -> None:
    with pytest.raises(EngineFailure, match=r"at most 0\.0001"):
        judge(measured)


def test_too_few_numbers_fail() -> None:
    with pytest.raises(EngineFailure, match="scored 1 tokens of a canary of 2"):
        judge((-1.0,))


def test_half_precision_may_differ_more_on_a_token_than_on_average() -> None:
    half = LOGPROB_TOLERANCE["float16"]
    text = Canary(tuple(range(11)), (-1.0,) * 10)
    assert judge((-1.04, *(-1.0,) * 9), text, None, half).difference == pytest.approx(0.04)
    with pytest.raises(EngineFailure, match=r"0\.04 on average"):
        judge((-1.04,) * 10, text, None, half)


logprobs = st.lists(st.floats(-20, 0), min_size=1, max_size=8).map(tuple)


@given(logprobs, st.data())
def test_only_what_is_within_tolerance_passes(said: tuple[float, ...], data: st.DataObject) -> None:
    noise = data.draw(st.lists(st.floats(-1e-3, 1e-3), min_size=len(said), max_size=len(said)))
    measured = tuple(a + b for a, b in zip(said, noise, strict=True))
    canary = Canary(tuple(range(len(said) + 1)), said)
    worst = max(abs(a - b) for a, b in zip(measured, said, strict=True))
    if worst <= FINE.each:
        assert judge(measured, canary, None).difference == worst
    else:
        with pytest.raises(EngineFailure):
            judge(measured, canary, None)


def test_a_step_says_how_its_version_was_delivered() -> None:
    assert proof_metrics(()) == {}
    assert proof_metrics((judge((-1.0, -2.00005)), judge((-1.0, -2.0), before=None))) == {
        "publish/difference": pytest.approx(5e-5),
        "publish/proved": 1.0,
        "publish/indistinguishable": 1.0,
        "time/publish": 0.5,
    }
