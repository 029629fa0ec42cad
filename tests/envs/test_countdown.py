from __future__ import annotations

import json
import random
from collections import Counter
from fractions import Fraction
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgrpo.envs.countdown.env import Countdown, is_solution
from agentgrpo.envs.countdown.solver import Reach, solve, whole
from agentgrpo.envs.countdown.tasks import HELDOUT_KINDS, TRAIN_KINDS, is_heldout
from agentgrpo.envs.rows import SPLITS
from agentgrpo.errors import TaskError
from agentgrpo.tools.calculator import OPERATORS, parse
from agentgrpo.types import JsonObject
from tests.envs.playing import do

ROWS = {split: Countdown.tasks(split) for split in SPLITS}
KINDS = {kind.name: kind for kind in TRAIN_KINDS + HELDOUT_KINDS}
GOAL = {"numbers": [3, 8, 5, 12], "target": 24, "operators": "+-*/"}


def play(env: Countdown, row: JsonObject, quality: float = 1.0, seed: int = 0) -> tuple[float, int]:
    """Run the oracle; return the reward and the number of calls."""
    env.reset(options={"task": row})
    assert env.score() == {"outcome": 0.0}
    script = env.oracle(quality=quality, rng=random.Random(seed))
    action, calls = next(script), 0
    while True:
        _, reward, terminated, _, info = env.step(json.dumps(action))
        if terminated:
            return float(reward), calls
        calls += 1
        action = script.send(tuple(info["messages"]))


def answered(answer: str, **goal: Any) -> float:
    """Return the reward of an answer given at once."""
    env = Countdown()
    env.reset(options={"task": GOAL | goal})
    return float(env.step(json.dumps(env.say(answer)))[1])


def test_a_level_has_its_count_of_numbers() -> None:
    counts = {(row["level"], len(row["numbers"])) for row in ROWS["train"]}
    assert counts == {(1, 3), (2, 4), (3, 5)}


def test_no_set_of_numbers_is_in_training_and_held_out() -> None:
    sets = {split: {tuple(sorted(row["numbers"])) for row in rows} for split, rows in ROWS.items()}
    assert not sets["train"] & (sets["heldout"] | sets["heldout_templates"])
    assert all(is_heldout(numbers) for numbers in sets["heldout"] | sets["heldout_templates"])
    tasks = [(tuple(row["numbers"]), row["target"], row["template"]) for row in ROWS["train"]]
    assert len(tasks) == len(set(tasks))


def test_heldout_kinds_differ_in_operators_or_count() -> None:
    trained = {(kind.operators, kind.count, kind.used) for kind in TRAIN_KINDS}
    assert not trained & {(kind.operators, kind.count, kind.used) for kind in HELDOUT_KINDS}


@pytest.mark.parametrize("split", SPLITS)
def test_every_row_is_solvable_and_no_easier_than_its_kind(split: str) -> None:
    for row in ROWS[split][::7]:
        numbers, target, operators = row["numbers"], row["target"], row["operators"]
        kind = KINDS[row["template"]]
        solution = solve(numbers, target, operators)
        assert solution is not None
        assert is_solution(str(solution), row)
        assert len(solution.numbers()) == kind.used  # the solver looks at small subsets first
        assert target not in numbers
        assert max(numbers) <= kind.highest
        assert target <= kind.highest_target


def test_oracle_solves_every_kind() -> None:
    env = Countdown()
    for rows in ROWS.values():
        for row in rows[::7]:
            reward, calls = play(env, row)
            assert (reward, calls <= (9 if row["level"] == 1 else 1)) == (1.0, True), row


@pytest.mark.slow
def test_oracle_solves_every_row() -> None:
    env = Countdown()
    for rows in ROWS.values():
        for row in rows:
            assert play(env, row)[0] == 1.0, row


def test_doing_nothing_earns_nothing_on_every_row() -> None:
    env = Countdown()
    for rows in ROWS.values():
        for row in rows:
            env.reset(options={"task": row})
            assert env.step(json.dumps(env.say("")))[1] == 0.0


def test_random_words_earn_about_nothing() -> None:
    env, rng, rewards = Countdown(), random.Random(0), []
    for row in ROWS["train"][:300]:
        env.reset(options={"task": row})
        words = [*map(str, row["numbers"]), str(row["target"]), *OPERATORS, "(", ")"]
        said = ["".join(rng.choices(words, k=rng.choice((1, 3, 5)))) for _ in range(rng.randrange(1, 5))]
        for expression in said[:-1]:
            do(env, "calculate", expression=expression)
        rewards.append(env.step(json.dumps(env.say(said[-1])))[1])
    assert sum(rewards) / len(rewards) < 0.03


def test_a_hastier_player_earns_less() -> None:
    env, rows = Countdown(), ROWS["train"][:150]
    means = [sum(play(env, row, quality, i)[0] for i, row in enumerate(rows)) / 150 for quality in (1, 0.5, 0)]
    assert means[0] == 1.0 > means[1] > means[2] > 0


@pytest.mark.parametrize("answer", ["12*(5-3)", "12 * (5 - 3)", " 12*(5-3)\n", "8*3", "3*8", "((8*3))"])
def test_right_answers_count(answer: str) -> None:
    assert answered(answer) == 1.0


def test_fractions_and_negative_steps_are_allowed() -> None:
    assert answered("8/(3-8/3)", numbers=[3, 3, 8, 8]) == 1.0
    assert answered("(3-8)*(5-12)", target=35) == 1.0


@pytest.mark.parametrize(
    ("answer", "loophole"),
    [
        ("", "nothing"),
        (" ", "nothing"),
        ("24", "the target itself"),
        ("12*2", "a number that was not given"),
        ("12+12", "a number twice"),
        ("3*8*(5/5)", "a number twice"),
        ("24+0", "a zero"),
        ("8*3*1", "a one"),
        ("-3*-8", "signs"),
        ("+24", "a sign"),
        ("3--8+5+8", "signs"),
        ("8*3=24", "an equation"),
        ("24=24", "an equation"),
        ("8*3 # 24", "a comment"),
        ("8*3;24", "two statements"),
        ("8*3 or 24", "a choice"),
        ("(8*3", "parentheses left open"),
        ("8*3)", "parentheses left open"),
        ("()", "nothing in parentheses"),
        ("8(3)", "a product without a sign"),
        ("8 3", "a product without a sign"),
        ("8\u00d73", "another sign"),
        ("\uff18*\uff13", "full-width digits"),
        ("\u0668*\u0663", "Arabic digits"),
        ("8*3\u200b", "an invisible character"),
        ("8*\u2462", "a circled digit"),
        ("08*3", "a leading zero"),
        ("8.0*3", "a decimal"),
        ("8e0*3", "a float"),
        ("0x8*3", "a hexadecimal"),
        ("8*3.", "a full stop"),
        ("8*3/(5-5)", "division by zero"),
        ("8*3+0/0", "division by zero"),
        ("target", "a name"),
        ("__import__('os').getpid()", "code"),
        ("The answer is 8*3", "words around"),
        ("**8*3**", "Markdown"),
        ('{"expression": "8*3"}', "JSON"),
        ("8*3\n12*2", "two answers"),
        ("(" * 30 + "8*3" + ")" * 30, "too deep"),
        ("8*3+" + "0+" * 500 + "0", "too long"),
        ("\ud800", "a surrogate"),
    ],
)
def test_loopholes_are_shut(answer: str, loophole: str) -> None:
    assert answered(answer) == 0.0, loophole


def test_digits_are_not_joined() -> None:
    assert answered("38", target=38) == 0.0
    assert answered("38+5", target=43) == 0.0
    assert answered("58/2", numbers=[5, 8, 2], target=29) == 0.0


def test_a_number_that_is_given_twice_is_used_twice() -> None:
    assert answered("6+6", numbers=[6, 6, 5], target=12) == 1.0
    assert answered("6+6", numbers=[6, 7, 5], target=12) == 0.0
    assert answered("6+6+6", numbers=[6, 6, 5], target=18) == 0.0


def test_only_the_operators_named_count() -> None:
    assert answered("8*3", operators="+-") == 0.0
    assert answered("12+8+5-3", target=22, operators="+-") == 1.0


def test_the_calculator_shows_what_is_left() -> None:
    env = Countdown()
    env.reset(options={"task": GOAL})
    assert do(env, "calculate", expression="3+8") == {"result": 11, "left": [5, 12]}
    assert do(env, "calculate", expression="5/8") == {"result": "5/8", "left": [3, 12]}
    assert do(env, "calculate", expression="24-12") == {"result": 12, "not_given": [24]}
    assert do(env, "calculate", expression="3+3") == {"result": 6, "not_given": [3]}
    assert "zero" in do(env, "calculate", expression="1/0")["error"]["message"]
    assert env.state() == GOAL | {"tried": ["3+8", "5/8", "24-12", "3+3"]}
    assert env.score() == {"outcome": 0.0}


def test_calculating_is_not_answering() -> None:
    env = Countdown()
    env.reset(options={"task": GOAL})
    assert do(env, "calculate", expression="8*3")["result"] == 24
    assert env.step(json.dumps(env.say("done")))[1] == 0.0


def brute(numbers: list[int]) -> set[int]:
    """Return what any order of the numbers makes, step by step from the left or in two pairs."""
    found: set[int] = set()
    for count in range(1, len(numbers) + 1):
        for order in permutations(numbers, count):
            values = {order[0]}
            for number in order[1:]:
                pairs = [(value, number) for value in values] + [(number, value) for value in values]
                made = {whole(operator, *pair) for operator in OPERATORS for pair in pairs}
                values = {value for value in made if value is not None}
            found |= values
    return found


@given(st.lists(st.integers(1, 12), min_size=1, max_size=3))
def test_the_solver_finds_exactly_what_there_is(numbers: list[int]) -> None:
    reach = Reach(numbers, OPERATORS)
    values = list(reach.values(len(numbers)))
    assert {value for _, value in values} == brute(numbers)
    for subset, value in values:
        expression = reach.expression(subset, value)
        used = [number for index, number in enumerate(numbers) if subset >> index & 1]
        assert expression.evaluate() == value
        assert Counter(expression.numbers()) == Counter(used)


def test_the_solver_says_when_there_is_no_way() -> None:
    assert solve([2, 4], 7, OPERATORS) is None
    assert str(solve([1, 2, 3], 9, OPERATORS)) == "3*(2+1)"
    env = Countdown()
    env.reset(options={"task": {"numbers": [2, 4], "target": 7}})
    with pytest.raises(TaskError, match=r"no way from \[2, 4\] to 7"):
        next(env.oracle())


@given(
    st.lists(st.integers(1, 99), min_size=2, max_size=5), st.integers(1, 999), st.text("0123456789+-*/() ", max_size=30)
)
def test_an_answer_counts_only_if_it_keeps_the_rules(numbers: list[int], target: int, answer: str) -> None:
    goal = {"numbers": numbers, "target": target, "operators": "+-*/"}
    if is_solution(answer, goal):
        expression = parse(answer.strip())
        assert expression.evaluate() == Fraction(target)
        assert not Counter(expression.numbers()) - Counter(numbers)


def test_own_tasks_need_numbers_and_a_target_only() -> None:
    env = Countdown(tasks=[{"numbers": [6, 7], "target": 42}])
    obs, _ = env.reset(seed=0)
    assert obs == "Make 42 from 6 7 with + - * /"
    assert play(env, env.task) == (1.0, 3)  # 7+6, 7-6, 7*6


@pytest.mark.parametrize(
    ("task", "told"),
    [
        ({"numbers": [1], "target": 3}, "2 to 6 numbers"),
        ({"numbers": "12", "target": 3}, "2 to 6 numbers"),
        ({"numbers": [1, 2, 0], "target": 3}, "whole numbers from 1"),
        ({"numbers": [1, True], "target": 3}, "whole numbers from 1"),
        ({"numbers": [1, 2.5], "target": 3}, "whole numbers from 1"),
        ({"numbers": [1, 2], "target": -1}, "whole numbers from 1"),
        ({"numbers": [1, 2], "target": 10**9}, "whole numbers from 1"),
        ({"numbers": [1, 2], "target": 3, "operators": "^"}, "operators must be"),
        ({"numbers": [1, 2], "target": 3, "operators": ""}, "operators must be"),
        ({"numbers": [1, 2], "target": 2}, "solved already"),
        ({"numbers": [1, 2]}, "cannot use task"),
    ],
)
def test_a_task_that_is_none_is_refused(task: JsonObject, told: str) -> None:
    with pytest.raises(TaskError, match=told):
        Countdown().reset(options={"task": task})
