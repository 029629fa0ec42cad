"""A dataset of reasoning-gym as an environment: one question, one answer, scored by the dataset.

It does not run a dataset whose scoring evaluates what a model wrote as Python code: some do.
"""

from __future__ import annotations

import ast
import inspect
import json
import random
import re
import textwrap
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from agentgrpo.core import ToolEnv
from agentgrpo.envs.seeded import seeded_tasks
from agentgrpo.errors import EnvError, TaskError, nearest
from agentgrpo.tasks import load_tasks, require_split
from agentgrpo.tooling import describe
from agentgrpo.types import JsonObject, Message, Task

TRAIN, HELDOUT = 1000, 200  # most tasks
SIZE = 10_000  # questions of a dataset, by number
INSTRUCTIONS = "Give the answer and nothing else, or put it between <answer> and </answer>."
_EVALUATORS = {"eval", "exec", "parse_expr", "sympify", "S"}


class ReasoningGym(ToolEnv):
    """Answer a question of one of reasoning-gym's datasets.

    Args:
        dataset: Its name.
        dataset_args: Its own settings.
        instructions: The system message.
        tasks: Rows with a "seed" each; None: one for each question, of which none is in two splits.
        reward_weights: Weight of each reward term.
        render_mode: "ansi" or None, as in Gymnasium.
    """

    # Making and scoring some questions can take forever: only a process can be stopped.
    metadata: ClassVar[dict[str, Any]] = {"isolation": "process"}  # type: ignore[misc]  # as in AgentEnv

    def __init__(
        self,
        *,
        dataset: str = "chain_sum",
        dataset_args: Mapping[str, Any] | None = None,
        instructions: str = INSTRUCTIONS,
        tasks: str | Path | Sequence[JsonObject] | None = None,
        reward_weights: Mapping[str, float] | None = None,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(tasks=tasks, reward_weights=reward_weights, render_mode=render_mode)
        self._dataset, self._args, self._instructions = dataset, json.dumps(dataset_args or {}), instructions
        self._source = _make(dataset, self._args)
        self._entry: JsonObject = self._source[0]
        # Some datasets ship no answer that they would accept, only what an answer has to fulfil.
        is_known = self._source.score_answer(self._entry["answer"], self._entry) == 1
        self.oracle: Callable[..., Generator[JsonObject, tuple[Message, ...], None]] | None
        self.oracle = self._solve if is_known else None

    @classmethod
    def tasks(
        cls, split: str = "train", *, dataset: str = "chain_sum", dataset_args: Mapping[str, Any] | None = None
    ) -> Sequence[JsonObject]:
        """Return the rows of `train` or `heldout`."""
        require_split(split, cls.splits, "a reasoning-gym dataset")
        return [task.row for task in _tasks(dataset, json.dumps(dataset_args or {}), split)]

    def reset_task(self, task: JsonObject) -> list[Message]:
        """Ask the question of the seed's number."""
        if not 0 <= task["seed"] < SIZE:
            raise TaskError(f"seed is {task['seed']}, expected 0 to {SIZE - 1}")
        self._entry = self._source[task["seed"]]
        system = [{"role": "system", "content": self._instructions}] if self._instructions else []
        return [*system, {"role": "user", "content": self._entry["question"]}]

    def reward(self) -> dict[str, float]:
        """Return the dataset's score of the answer, 0 to 1."""
        if self.answer is None:
            return {"outcome": 0.0}
        tagged = re.findall(r"<answer>(.*?)</answer>", self.answer, re.DOTALL)
        answer = (tagged[-1] if tagged else self.answer).strip()
        return {"outcome": float(self._source.score_answer(answer, self._entry)) if answer else 0.0}

    def _solve(
        self, *, quality: float = 1.0, rng: random.Random | None = None
    ) -> Generator[JsonObject, tuple[Message, ...], None]:
        """Give the dataset's own answer; below quality 1 now and then that of another question."""
        is_right = (rng or random.Random(0)).random() < quality
        other = self._source[(self.task["seed"] + 1) % SIZE]
        yield self.say(str((self._entry if is_right else other)["answer"]))

    def _shipped(self, split: str) -> tuple[Task, ...]:
        return _tasks(self._dataset, self._args, split)


def evaluates_answers(scorer: object) -> bool:
    """Whether a scoring function hands the answer to something that runs text as Python (sympy's parser does)."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(scorer)))  # type: ignore[arg-type]
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return any(
        _last_name(call.func) in _EVALUATORS
        and any(isinstance(n, ast.Name) and n.id == "answer" for n in ast.walk(call))
        for call in calls
    )


def _last_name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


@lru_cache(maxsize=8)
def _make(name: str, args: str) -> Any:
    """Return a dataset; its questions are made when they are asked for."""
    try:
        from reasoning_gym.factory import DATASETS, create_dataset
    except ImportError as error:
        raise EnvError("the environment 'reasoning_gym' needs a package: pip install reasoning-gym") from error
    if name not in DATASETS:
        raise EnvError(f"reasoning-gym has no dataset '{name}'.{nearest(name, DATASETS)}")
    if name == "composite":  # its parts would not be looked at
        raise EnvError("reasoning-gym's 'composite' mixes datasets: name one")
    if evaluates_answers(DATASETS[name][0].score_answer):
        raise EnvError(
            f"reasoning-gym's '{name}' evaluates what a model answers as Python code, which would let a model run "
            "anything here: take another dataset"
        )
    try:
        return create_dataset(name, **{"seed": 0, **json.loads(args), "size": SIZE})
    except (TypeError, ValueError, AssertionError) as error:
        raise EnvError(f"reasoning-gym's '{name}' does not take {args}: {describe(error)}") from error


@lru_cache(maxsize=8)
def _tasks(name: str, args: str, split: str) -> tuple[Task, ...]:
    dataset = _make(name, args)
    rows = seeded_tasks(lambda seed: str(dataset[seed]["question"]), TRAIN, HELDOUT, range(SIZE))
    return load_tasks(rows[split], split=split)
