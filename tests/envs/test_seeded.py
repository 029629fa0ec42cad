from __future__ import annotations

from agentgrpo.envs.seeded import seeded_tasks


def test_every_start_comes_once_and_in_one_split() -> None:
    rows = seeded_tasks(lambda seed: str(seed % 90), 1000, 200)
    starts = {split: [row["seed"] % 90 for row in found] for split, found in rows.items()}
    assert sorted(starts["train"] + starts["heldout"]) == list(range(90))
    assert 8 <= len(starts["heldout"]) <= 22  # one of six, about
    assert all(row["task_id"] == f"{split}-{row['seed']}" for split, found in rows.items() for row in found)


def test_there_are_no_more_rows_than_wanted_and_always_the_same() -> None:
    rows = seeded_tasks(str, 50, 7)
    assert [len(found) for found in rows.values()] == [50, 7]
    assert rows == seeded_tasks(str, 50, 7)


def test_a_start_keeps_its_split_whatever_else_there_is() -> None:
    few, many = seeded_tasks(lambda seed: str(seed % 40), 100, 100), seeded_tasks(str, 100, 100)
    for split in ("train", "heldout"):
        assert {row["seed"] for row in few[split]} <= {row["seed"] for row in many[split]}


def test_few_starts_are_in_both_splits_under_different_seeds() -> None:
    rows = seeded_tasks(lambda seed: "the same map", 100, 20)
    assert [len(found) for found in rows.values()] == [100, 20]
    assert not {row["seed"] for row in rows["train"]} & {row["seed"] for row in rows["heldout"]}
