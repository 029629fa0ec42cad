from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentgrpo.errors import TaskError, UserError
from agentgrpo.tasks import TaskSampler, load_tasks, require_split, split_tasks
from agentgrpo.types import Task


def tasks_of(*weights: float) -> list[Task]:
    return [Task(id=f"t{i}", row={}, weight=weight) for i, weight in enumerate(weights)]


def ids(tasks: list[Task] | tuple[Task, ...]) -> list[str]:
    return [task.id for task in tasks]


def test_rows_of_a_file_get_ids_and_weights(tmp_path: Path) -> None:
    path = tmp_path / "lockers.jsonl"
    path.write_text('\ufeff{"name": "é\u2028"}\n\n{"task_id": "mine", "weight": 2}\n', encoding="utf-8")
    first, second = load_tasks(path)
    assert (first.id, first.weight, first.row) == ("lockers-0", 1.0, {"name": "é\u2028", "task_id": "lockers-0"})
    assert (second.id, second.weight) == ("mine", 2.0)
    as_list = tmp_path / "lockers.json"
    as_list.write_text('[{"name": "a"}]')
    assert ids(load_tasks(str(as_list))) == ["lockers-0"]


def test_rows_of_python_are_named_after_the_split() -> None:
    assert ids(load_tasks(({"seed": i} for i in range(2)), split="heldout")) == ["heldout-0", "heldout-1"]
    assert load_tasks([]) == ()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"a": 1}\n{oops', r"set.jsonl, line 2: not valid JSON"),
        ("[1]", "line 1: expected a JSON object, got list"),
        ('{"task_id": "x"}\n\n{"task_id": "x"}', r"line 3: task_id 'x' is already that of .*line 1"),
        ('{"task_id": 3}', "task_id must be a string"),
        ('{"weight": 0}', "weight must be a positive number, got 0"),
        ('{"weight": true}', "weight must be a positive number"),
        ('{"weight": NaN}', "weight must be a positive number"),
        (f'{{"weight": 1{"0" * 400}}}', "weight must be a positive number"),
        ("\n", "holds no tasks"),
    ],
)
def test_unusable_files_name_the_line(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text(text)
    with pytest.raises(TaskError, match=told):
        load_tasks(path)


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="No such file"):
        load_tasks(tmp_path / "none.jsonl")
    (tmp_path / "no.json").write_text('{"a": 1}')
    with pytest.raises(TaskError, match="expected a JSON list of rows, got dict"):
        load_tasks(tmp_path / "no.json")
    (tmp_path / "latin.json").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(TaskError, match="not UTF-8"):
        load_tasks(tmp_path / "latin.json")
    with pytest.raises(TaskError, match="plain JSON data"):
        load_tasks([{"x": object()}])


def test_a_dataset_without_its_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"agentgrpo\[datasets\]"):
        load_tasks("owner/set")


def test_held_out_tasks_depend_on_ids_and_seed_only() -> None:
    tasks = tasks_of(*[1.0] * 20)
    train, heldout = split_tasks(tasks, 0.25, seed=1)
    assert len(heldout) == 5
    assert sorted(ids(train + heldout)) == sorted(ids(tasks))
    again = split_tasks(tasks[::-1], 5, seed=1)
    assert set(ids(again[1])) == set(ids(heldout))
    assert set(ids(split_tasks(tasks, 5, seed=2)[1])) != set(ids(heldout))
    assert split_tasks(tasks, 0, seed=1) == (tuple(tasks), ())
    assert len(split_tasks(tasks, 0.01, seed=1)[1]) == 1
    for too_many in (20, -1, 1.0):
        with pytest.raises(TaskError, match="cannot hold out"):
            split_tasks(tasks, too_many, seed=1)


def test_order_does_not_depend_on_hash_randomization() -> None:
    code = (
        "from agentgrpo.tasks import *; t = load_tasks([{'i': i} for i in range(9)]); "
        "print([x.id for x in TaskSampler(t, 3).next(9)], [x.id for x in split_tasks(t, 3, 4)[1]])"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": str(seed), "PYTHONPATH": str(Path(__file__).parents[1])},
            capture_output=True,
            check=True,
        ).stdout
        for seed in (1, 2)
    }
    assert len(outputs) == 1


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 5))
def test_equal_weights_show_every_task_before_any_again(count: int, batch: int, seed: int) -> None:
    sampler = TaskSampler(tasks_of(*[0.1] * count), seed)
    batch = min(batch, count)
    drawn: list[str] = []
    for _ in range(20):
        names = ids(sampler.next(batch))
        assert len(set(names)) == batch
        drawn += names
        counts = Counter(drawn)
        assert max(counts.values()) - min(counts.get(f"t{i}", 0) for i in range(count)) <= 2
    single = TaskSampler(tasks_of(*[0.1] * count), seed)
    for _ in range(3):
        assert len({single.next(1)[0].id for _ in range(count)}) == count


def test_weights_are_frequencies_and_every_epoch_has_every_task() -> None:
    sampler = TaskSampler(tasks_of(1, 2.5, 1), seed=0)
    counts = Counter(sampler.next(1)[0].id for _ in range(9 * 100))
    assert abs(counts["t1"] / 900 - 2.5 / 4.5) < 0.01
    assert abs(counts["t0"] - counts["t2"]) <= 2


def test_a_heavy_task_cannot_pile_up() -> None:
    sampler = TaskSampler(tasks_of(1000, 1, 1), seed=0)
    for _ in range(50):
        assert len(set(ids(sampler.next(2)))) == 2
        assert len(sampler.state()["put_off"]) <= 3


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.5, 4), min_size=3, max_size=8), st.integers(0, 9), st.lists(st.integers(1, 3), max_size=12))
def test_resume_goes_on_exactly(weights: list[float], seed: int, sizes: list[int]) -> None:
    sampler, resumed = TaskSampler(tasks_of(*weights), seed), TaskSampler(tasks_of(*weights), seed)
    for size in sizes:
        sampler.next(size)
    state: dict[str, Any] = json.loads(json.dumps(sampler.state()))
    resumed.restore(state)
    assert [ids(sampler.next(3)) for _ in range(5)] == [ids(resumed.next(3)) for _ in range(5)]


def test_misuse_is_told() -> None:
    sampler = TaskSampler(tasks_of(1, 1), seed=0)
    with pytest.raises(TaskError, match="3 different tasks are wanted at once, the set has 2"):
        sampler.next(3)
    with pytest.raises(TaskError, match="resume with the same"):
        TaskSampler(tasks_of(1, 2), seed=0).restore(sampler.state())
    with pytest.raises(TaskError, match="resume with the same"):
        TaskSampler(tasks_of(1, 1), seed=1).restore(sampler.state())
    with pytest.raises(TaskError, match="no tasks"):
        TaskSampler([], seed=0)
    with pytest.raises(TaskError, match="heaviest"):
        TaskSampler(tasks_of(1, 1e9), seed=0)


def test_a_split_that_does_not_exist_is_refused_with_the_nearest() -> None:
    require_split("heldout", ("train", "heldout"), "the pond")
    with pytest.raises(
        TaskError, match=r"the pond has no split 'helout', it has train, heldout\. Did you mean 'heldout'"
    ):
        require_split("helout", ("train", "heldout"), "the pond")
