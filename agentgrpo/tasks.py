"""Task sets: reading them, holding some out, and drawing them in a seeded order that can be resumed.

It does not know environments: a task is a row with an id and a weight.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from agentgrpo.errors import TaskError, UserError, nearest
from agentgrpo.seeds import derive_seed
from agentgrpo.types import JsonObject, Task

MAX_WEIGHT_RATIO = 10_000  # an epoch holds the lightest task once, so the heaviest this many times at most
_SHARE_STEPS = 2**20
GIVE_TASKS = 'give it tasks: tasks = "FILE" in a config, --tasks FILE for a command, tasks= in Python'


def load_tasks(source: str | Path | Iterable[Mapping[str, Any]], *, split: str = "train") -> tuple[Task, ...]:
    """Load the tasks of a `.jsonl` or `.json` file, a `datasets` name or folder, or rows.

    A row's id is its "task_id", else "<stem>-<index>" (the file's stem, or the split); its weight is its "weight",
    else 1. Every `row` of the result has its "task_id".

    Args:
        source: The file, name, folder, or an iterable of dicts.
        split: Which split of a dataset; for rows, what their ids start with.

    Raises:
        TaskError: a row cannot be used; the message names the file and line.
        UserError: a dataset is wanted and `datasets` is not installed.
    """
    if not isinstance(source, str | Path):
        return _tasks(((f"row {i}", row) for i, row in enumerate(source)), stem=split, origin="the rows")
    path = Path(source)
    if path.suffix in (".jsonl", ".json"):
        read = _read_lines if path.suffix == ".jsonl" else _read_list
        return _tasks(read(path), stem=path.stem, origin=str(path))
    rows = _dataset(str(source), split)
    return _tasks(((f"{source} row {i}", row) for i, row in enumerate(rows)), stem=split, origin=str(source))


def require_split(split: str, splits: Iterable[str], owner: str) -> None:
    """Refuse a split that does not exist.

    Raises:
        TaskError: `owner` ("the shop") has none of this name.
    """
    if split not in splits:
        raise TaskError(f"{owner} has no split '{split}', it has {', '.join(splits)}.{nearest(split, splits)}")


def split_tasks(tasks: Sequence[Task], heldout: float | int, seed: int) -> tuple[tuple[Task, ...], tuple[Task, ...]]:
    """Return (train, held-out) tasks, each in the given order.

    Which tasks are held out depends on the seed and their ids only, not on their order in the file.

    Args:
        tasks: At least one more than are held out.
        heldout: A count (int), or a fraction (float) of which at least one task is held out unless it is 0.
        seed: Another seed holds out others.

    Raises:
        TaskError: nothing would be left to train on.
    """
    count = heldout if isinstance(heldout, int) else math.ceil(Fraction(str(heldout)) * len(tasks))
    if not 0 <= count < max(len(tasks), 1):
        raise TaskError(
            f"cannot hold out {heldout} of {len(tasks)} tasks: give a count below that, or a fraction below 1"
        )
    ranked = sorted(tasks, key=lambda task: (derive_seed(seed, "heldout", task.id), task.id))
    chosen = {task.id for task in ranked[:count]}
    return (
        tuple(task for task in tasks if task.id not in chosen),
        tuple(task for task in tasks if task.id in chosen),
    )


class TaskSampler:
    """Draws tasks epoch by epoch; the order is a function of the seed and the cursor.

    Every epoch holds every task: the lightest once, another in proportion to its weight (2.5 times as heavy: two or
    three times). So with equal weights no task comes again before all were seen.
    One batch holds no task twice: what would be a repeat is put off to the next batch.

    Args:
        tasks: What to draw from.
        seed: Another seed gives another order.
    """

    def __init__(self, tasks: Sequence[Task], seed: int) -> None:
        if not tasks:
            raise TaskError("there are no tasks to draw from: the task set is empty")
        self.tasks, self.seed = tuple(tasks), seed
        lightest = min(Fraction(task.weight) for task in tasks)
        self._rates = [Fraction(task.weight) / lightest for task in tasks]
        if max(self._rates) > MAX_WEIGHT_RATIO:
            raise TaskError(f"the heaviest task weighs over {MAX_WEIGHT_RATIO} times the lightest: drop the lightest")
        self._shares = [Fraction(derive_seed(seed, "share", t.id) % _SHARE_STEPS, _SHARE_STEPS) for t in tasks]
        self._epoch, self._position = 0, 0
        self._put_off: list[int] = []
        self._order = self._order_of(0)

    def next(self, n: int) -> list[Task]:
        """Return the next `n` tasks, all different.

        Raises:
            TaskError: there are fewer tasks than that.
        """
        if n > len(self.tasks):
            raise TaskError(
                f"{n} different tasks are wanted at once, the set has {len(self.tasks)}: "
                "lower [rollout] tasks_per_step, or add tasks"
            )
        waiting, self._put_off = self._put_off, []
        batch: dict[int, Task] = {}
        while len(batch) < n:
            index = waiting.pop(0) if waiting else self._draw()
            if index in batch:
                self._put_off.append(index)
            else:
                batch[index] = self.tasks[index]
        # Each waits once: weights that would need repeats within every batch cannot pile up.
        self._put_off = list(dict.fromkeys(self._put_off + waiting))
        return list(batch.values())

    def state(self) -> JsonObject:
        """Return the cursor as JSON."""
        return {
            "tasks": self._fingerprint(),
            "epoch": self._epoch,
            "position": self._position,
            "put_off": list(self._put_off),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a cursor.

        Raises:
            TaskError: the cursor belongs to other tasks or another seed.
        """
        if state["tasks"] != self._fingerprint():
            raise TaskError("the tasks, their weights or the seed differ from the run's: resume with the same ones")
        self._epoch, self._position = state["epoch"], state["position"]
        self._put_off = list(state["put_off"])
        self._order = self._order_of(self._epoch)

    def _draw(self) -> int:
        if self._position == len(self._order):
            self._epoch, self._position = self._epoch + 1, 0
            self._order = self._order_of(self._epoch)
        self._position += 1
        return self._order[self._position - 1]

    def _order_of(self, epoch: int) -> list[int]:
        # Exact fractions: over epochs each task comes rate times on average, and equal weights give exactly one each.
        order = [
            index
            for index, (rate, share) in enumerate(zip(self._rates, self._shares, strict=True))
            for _ in range(math.floor(rate * (epoch + 1) + share) - math.floor(rate * epoch + share))
        ]
        random.Random(derive_seed(self.seed, "epoch", epoch)).shuffle(order)
        return order

    def _fingerprint(self) -> str:
        rows = [[task.id, task.weight] for task in self.tasks]
        return hashlib.sha256(json.dumps([self.seed, rows]).encode()).hexdigest()[:16]


def _tasks(rows: Iterable[tuple[str, Any]], *, stem: str, origin: str) -> tuple[Task, ...]:
    tasks: dict[str, Task] = {}
    places: dict[str, str] = {}
    for index, (place, row) in enumerate(rows):
        task = _task(row, f"{stem}-{index}", place)
        if task.id in tasks:
            raise TaskError(f"{place}: task_id '{task.id}' is already that of {places[task.id]}; ids must differ")
        tasks[task.id], places[task.id] = task, place
    if not tasks and origin != "the rows":
        raise TaskError(f"{origin} holds no tasks")
    return tuple(tasks.values())


def _task(row: Any, default_id: str, place: str) -> Task:
    if not isinstance(row, Mapping):
        raise TaskError(f"{place}: expected a JSON object, got {type(row).__name__}")
    task_id, weight = row.get("task_id", default_id), row.get("weight", 1.0)
    if not isinstance(task_id, str) or not task_id:
        raise TaskError(f"{place}: task_id must be a string that is not empty, got {task_id!r}")
    is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
    if not is_number or not 0 < weight <= sys.float_info.max:
        raise TaskError(f"{place}: weight must be a positive number, got {weight!r}; leave out a task you do not want")
    try:
        json.dumps(row := dict(row))
    except (TypeError, ValueError) as error:
        raise TaskError(f"{place}: a row must be plain JSON data: {error}") from error
    return Task(id=task_id, row=row | {"task_id": task_id}, weight=float(weight))


def _read_lines(path: Path) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(_read(path).split("\n"), 1):
        if line.strip():
            place = f"{path}, line {number}"
            yield place, _parse(line, place)


def _read_list(path: Path) -> Iterator[tuple[str, Any]]:
    rows = _parse(_read(path), str(path))
    if not isinstance(rows, list):
        raise TaskError(f"{path}: expected a JSON list of rows, got {type(rows).__name__}")
    yield from ((f"{path}, row {index}", row) for index, row in enumerate(rows))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        there = [file.name for file in path.parent.glob("*.json*")] if isinstance(error, FileNotFoundError) else []
        raise TaskError(f"cannot read the tasks in {path}: {reason}.{nearest(path.name, there)}") from error


def _parse(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TaskError(f"{place}: not valid JSON: {error}") from error


def _dataset(name: str, split: str) -> Iterable[Mapping[str, Any]]:
    """Load a hub dataset, a folder of data files, or a folder that `save_to_disk` wrote."""
    try:
        import datasets
    except ImportError as error:
        raise UserError(
            f"tasks '{name}' is no .jsonl or .json file, and reading it as a dataset needs an extra: "
            "pip install 'agentgrpo[datasets]'"
        ) from error
    try:
        folder = Path(name)
        if not (folder / "dataset_dict.json").exists() and not (folder / "state.json").exists():
            rows: Iterable[Mapping[str, Any]] = datasets.load_dataset(name, split=split)
            return rows
        stored = datasets.load_from_disk(name)
        chosen: Iterable[Mapping[str, Any]] = stored[split] if isinstance(stored, datasets.DatasetDict) else stored
        return chosen
    except Exception as error:  # the library raises whatever its backends do
        raise TaskError(f"cannot load the dataset '{name}', split '{split}': {error}") from error
