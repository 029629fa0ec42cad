from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from agentgrpo.envs.shop.env import Shop
from agentgrpo.errors import UserError
from agentgrpo.store import (
    EpisodeStore,
    RunDirectory,
    TrainingRow,
    finish_record,
    hash_folder,
    hash_json,
    hash_source,
    hash_sources,
    resume_record,
    start_record,
)
from agentgrpo.types import StopReason
from tests.store.strategies import make_key, make_trajectory


def test_json_hashes_by_content() -> None:
    assert hash_json({"a": 1, "b": [1, 2]}) == hash_json({"b": [1, 2], "a": 1})
    assert hash_json([1, 2]) != hash_json([2, 1])


def test_a_folder_hashes_by_names_and_contents(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "sub" / "model.bin").write_bytes(b"123")
    assert hash_folder(tmp_path / "one") == hash_folder(tmp_path / "two")
    (tmp_path / "two" / ".cache").write_text("hidden")
    assert hash_folder(tmp_path / "one") == hash_folder(tmp_path / "two")
    (tmp_path / "two" / "sub" / "model.bin").write_bytes(b"124")
    assert hash_folder(tmp_path / "one") != hash_folder(tmp_path / "two")
    with pytest.raises(UserError, match="expected a folder"):
        hash_folder(tmp_path / "absent")


def load(path: Path, name: str, class_name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, class_name)


def test_source_hashes_by_the_files_a_class_is_made_of(tmp_path: Path) -> None:
    file = tmp_path / "locker.py"
    hashes = []
    for body in ("class Locker: pass", "class Locker: pass", "class Locker: reward = 1"):
        file.write_text(body)
        hashes.append(hash_source(load(file, "locker_under_test", "Locker")))
    assert hashes[0] == hashes[1] != hashes[2]


def test_source_that_is_not_to_be_had_is_unknown() -> None:
    assert hash_source(type("Nowhere", (), {"__module__": "no_such_module"})) is None


def test_what_is_made_of_several_classes_changes_with_any_of_them() -> None:
    assert hash_sources([RunDirectory]) == hash_source(RunDirectory)
    both = hash_sources([RunDirectory, Shop])
    assert both not in (None, hash_source(RunDirectory), hash_source(Shop), hash_sources([Shop, RunDirectory]))
    assert hash_sources([]) is None


def test_the_record_of_a_run(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    run = RunDirectory.create(tmp_path / "runs", "shop")
    arguments: dict[str, Any] = {
        "config": {"seed": 7, "key": "hf_" + "a1" * 17},
        "env": [RunDirectory],
        "env_id": "shop",
        "tasks": {"train": [{"task_id": "a"}]},
        "model_path": model,
        "sampling": {"temperature": 1.0},
    }
    started = start_record(run, **arguments)
    assert (started["seed"], started["status"], started["tasks"]) == (7, "running", {"train": 1})
    assert started["hashes"]["model"] == hash_folder(model)
    assert started["versions"]["packages"]["gymnasium"]
    with EpisodeStore(run.episodes) as store:
        store.add_sync([make_trajectory(), make_trajectory(make_key(sample=1), reward=None)])
    record = finish_record(run, status="completed", optimizer_steps=3)
    assert record["episodes"]["total"] == 2
    assert record["episodes"]["by_stop_reason"] == {r.value: int(r.value in ("answered", "failed")) for r in StopReason}
    assert (record["spent"]["sampled_tokens"], record["optimizer_steps"]) == (16, 3)
    assert run.read_record()["config"]["key"] == "[redacted]"
    assert (record["exact"], record["inexact"]) == (False, ["1 episodes met a deadline of the clock or failed"])


def test_the_record_of_a_run_that_goes_on_keeps_what_it_was_made_of(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, "shop")
    tasks: dict[str, Any] = {"train": [{"task_id": "a"}]}
    started = start_record(run, config={}, env=(), env_id="shop", tasks=tasks, model_path=None, sampling={})
    assert (started["exact"], started["resumes"]) == (True, [])
    EpisodeStore(run.episodes).close()
    finish_record(run, status="failed", cause="asleep")
    resumed = resume_record(run, step=3, changes=["the code was changed"], config={"seed": 1})
    assert (resumed["status"], resumed["ended_at"], "cause" in resumed) == ("running", None, False)
    assert (resumed["started_at"], resumed["hashes"]) == (started["started_at"], started["hashes"])
    assert (resumed["exact"], resumed["inexact"]) == (False, ["the code was changed"])
    assert [(r["step"], r["changes"]) for r in resumed["resumes"]] == [(3, ["the code was changed"])]


async def test_filtered_episodes_are_counted_by_reason(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, "shop")
    with EpisodeStore(run.episodes) as store:
        await store.add([make_trajectory()])
        await store.set_training([TrainingRow(key=make_key(), filter_reason="zero_variance")])
    assert finish_record(run, status="stopped")["episodes"]["by_filter_reason"] == {"zero_variance": 1}
