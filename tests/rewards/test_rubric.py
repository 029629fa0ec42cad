from __future__ import annotations

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgrpo.errors import EnvError
from agentgrpo.rewards import PUBLISHED_WEIGHTS, TOOL_CALL_WEIGHTS, Rubric, rubric, scaled

WEIGHTS = {"progress": 0.2, "side_effects": -0.3}
LIGHT = {"progress": 0.15, "side_effects": -0.3}


def test_the_docstring_is_true() -> None:
    assert doctest.testmod(rubric).failed == 0


@given(
    st.dictionaries(st.sampled_from("abcde"), st.floats(-1, 1).filter(lambda weight: abs(weight) > 1e-6)),
    st.data(),
)
def test_the_worst_success_earns_more_than_the_best_failure(weights: dict[str, float], data: st.DataObject) -> None:
    made = Rubric(scaled(weights, 0.99) if weights else {})
    values = st.fixed_dictionaries({name: st.floats(0, 1) for name in weights})
    success = sum(made.score(1.0, **data.draw(values)).values())
    failure = sum(made.score(0.0, **data.draw(values)).values())
    assert success > failure


def test_weights_that_could_outweigh_the_outcome_are_refused_unless_told() -> None:
    heavy = {"progress": 0.3, "side_effects": -0.4}
    with pytest.raises(EnvError, match=r"\(progress 0.3, side_effects -0.4\) are together worth 1 .* the outcome is"):
        Rubric(heavy)
    told = Rubric(heavy, may_outweigh_outcome=True)
    assert told.score(0.0, progress=1.0, side_effects=0.0) == {"outcome": 0.0, "progress": 0.3, "side_effects": 0.0}


def test_rubrics_compose_and_are_checked_again() -> None:
    both = Rubric(LIGHT) | TOOL_CALL_WEIGHTS
    assert both.weights == {**LIGHT, **TOOL_CALL_WEIGHTS}
    assert (Rubric(WEIGHTS) | Rubric({"progress": 0.1})).weights["progress"] == 0.1
    with pytest.raises(EnvError, match="are together worth"):
        Rubric(WEIGHTS) | PUBLISHED_WEIGHTS
    small = scaled(PUBLISHED_WEIGHTS, 0.3)
    assert rubric.worth(small) == pytest.approx(0.3)
    assert small["validity"] / small["name"] == pytest.approx(2.5)
    with pytest.raises(EnvError, match="no weight to scale"):
        scaled({}, 0.3)


@pytest.mark.parametrize("weight", [0.0, float("nan"), float("inf")])
def test_a_weight_without_effect_is_refused(weight: float) -> None:
    with pytest.raises(EnvError, match="expected a number that is not 0"):
        Rubric({"progress": weight})


def test_the_outcome_has_no_weight() -> None:
    with pytest.raises(EnvError, match="the outcome weighs 1"):
        Rubric({"outcome": 2.0})


@pytest.mark.parametrize(
    ("terms", "said"),
    [
        ({"progress": 1.0}, "the rubric's term 'side_effects' was not given"),
        ({"progress": 1.0, "side_effects": 0.0, "progres": 1.0}, "no term 'progres', .* Did you mean 'progress'"),
        ({"progress": 1.5, "side_effects": 0.0}, "the term 'progress' is 1.5, expected a number from 0 to 1"),
        ({"progress": -0.5, "side_effects": 0.0}, "a negative one that it is a penalty"),
        ({"progress": float("nan"), "side_effects": 0.0}, "'progress' is nan"),
    ],
)
def test_terms_must_be_those_of_the_rubric_and_bounded(terms: dict[str, float], said: str) -> None:
    with pytest.raises(EnvError, match=said):
        Rubric(WEIGHTS).score(0.0, **terms)


def test_rounding_is_no_error_and_no_term_is_minus_zero() -> None:
    found = Rubric(WEIGHTS).score(1.0 + 1e-12, progress=1.0, side_effects=-1e-12)
    assert [str(value) for value in found.values()] == ["1.0", "0.0", "0.0"]


def test_without_terms_there_is_the_outcome() -> None:
    for value in (0.0, 0.5, 1.0):
        assert Rubric({}).score(value) == {"outcome": value}


def test_a_success_that_lacks_nothing_earns_exactly_one() -> None:
    made = Rubric(LIGHT) | TOOL_CALL_WEIGHTS
    perfect = {name: float(weight > 0) for name, weight in made.weights.items()}
    assert made.score(1.0, **perfect) == {"outcome": 1.0} | dict.fromkeys(made.weights, 0.0)
    assert made.score(1.0, **{**perfect, "validity": 0.5})["validity"] == -0.025
    assert sum(made.score(0.0, **dict.fromkeys(made.weights, 0.0)).values()) == 0.0
