from __future__ import annotations

import inspect
import json
import re

import pytest

pytest.importorskip("reasoning_gym", reason="pip install reasoning-gym")

from reasoning_gym.factory import DATASETS

from agentgrpo.envcheck import check_env
from agentgrpo.envs.reasoning.env import ReasoningGym, evaluates_answers
from agentgrpo.errors import EnvError, TaskError
from agentgrpo.registry import resolve_env

UNSAFE = {
    *("binary_matrix", "countdown", "intermediate_integration", "n_queens", "polynomial_multiplication"),
    *("puzzle24", "simple_integration", "spiral_matrix", "string_insertion"),
}
SOME = ["chain_sum", "gcd", "spell_backward", "leg_counting", "number_sorting", "calendar_arithmetic"]


@pytest.mark.parametrize("dataset", SOME)
def test_it_is_sound(dataset: str) -> None:
    found = {result.name: result for result in check_env(resolve_env("reasoning_gym", dataset=dataset), tasks=3)}
    assert [result for result in found.values() if result.passed is False] == []
    assert found["oracle"].passed
    assert resolve_env("reasoning_gym", dataset=dataset).isolation == "process"


def test_no_question_is_in_both_splits() -> None:
    rows = {split: ReasoningGym.tasks(split, dataset="gcd") for split in ("train", "heldout")}
    env = ReasoningGym(dataset="gcd")
    asked = {split: {env.reset(options={"task": row})[0] for row in rows[split]} for split in ("train", "heldout")}
    assert [len(found) for found in asked.values()] == [1000, 200]
    assert not asked["train"] & asked["heldout"]
    with pytest.raises(TaskError, match="no split 'test'"):
        ReasoningGym.tasks("test")


def test_the_answer_is_the_message_or_what_is_marked_in_it() -> None:
    env = ReasoningGym(dataset="chain_sum")
    env.reset(options={"task": {"seed": 1}})
    assert env.oracle is not None
    right = next(env.oracle())["content"]
    for said, reward in [
        (right, 1.0),
        (f" {right}\n", 1.0),
        (f"<answer>1</answer> no: <answer>{right}</answer>", 1.0),
        ("", 0.0),
        ("<answer></answer>", 0.0),
    ]:
        env.reset(options={"task": {"seed": 1}})
        assert env.step(json.dumps(env.say(said)))[1:3] == (reward, True)


def test_a_worse_oracle_gives_the_answer_to_another_question() -> None:
    env = ReasoningGym(dataset="gcd")
    env.reset(options={"task": {"seed": 1}})
    assert env.oracle is not None
    assert env.step(json.dumps(next(env.oracle(quality=0.0))))[1] < 1.0


def test_datasets_that_run_answers_as_code_are_refused() -> None:
    assert {name for name in DATASETS if evaluates_answers(DATASETS[name][0].score_answer)} == UNSAFE
    for name in UNSAFE:
        with pytest.raises(EnvError, match="evaluates what a model answers as Python code"):
            ReasoningGym(dataset=name)
    # Nothing that scores mentions an evaluator and is not among them, but for what it calls on its own answers.
    called = re.compile(r"\b(eval|exec|parse_expr|sympify)\(")
    scorers = {name: inspect.getsource(DATASETS[name][0].score_answer) for name in DATASETS}
    assert {name for name, text in scorers.items() if called.search(text)} - UNSAFE <= {"number_sorting"}


def test_a_dataset_that_ships_no_answer_has_no_oracle() -> None:
    assert ReasoningGym(dataset="graph_color").oracle is None
    assert ReasoningGym(dataset="gcd").oracle is not None


def test_what_cannot_be_used_is_refused() -> None:
    with pytest.raises(EnvError, match=r"no dataset 'chain_sums'\. Did you mean 'chain_sum'\?"):
        ReasoningGym(dataset="chain_sums")
    with pytest.raises(EnvError, match="does not take"):
        ReasoningGym(dataset="chain_sum", dataset_args={"no_such": 1})
    with pytest.raises(EnvError, match="mixes datasets"):
        ReasoningGym(dataset="composite")
    with pytest.raises(TaskError, match="expected 0 to 9999"):
        ReasoningGym(dataset="gcd").reset(options={"task": {"seed": 10_000}})
