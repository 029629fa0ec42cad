from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from agentgrpo.checkpoint import Checkpoints
from agentgrpo.types import Adapter

CONFIG = {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM", "peft_type": "LORA"}


def adapter(value: float) -> Adapter:
    tensors = {"base_model.model.q_proj.lora_A.weight": torch.full((2, 3), value)}
    return Adapter(tensors=tensors, config=CONFIG, sha256=f"hash-{value}")


def value_in(folder: Path | None) -> float:
    assert folder is not None
    (tensor,) = load_file(folder / "adapter_model.safetensors").values()
    return float(tensor[0, 0])


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(folder=tmp_path / "checkpoints", keep=2)


def names(checkpoints: Checkpoints) -> list[str]:
    return sorted(path.name for path in checkpoints.folder.iterdir())


def test_a_checkpoint_is_an_adapter_and_what_the_trainer_knows(checkpoints: Checkpoints) -> None:
    folder = checkpoints.save(adapter(0.5), 3, {"heldout_success": 0.25}, is_best=False)
    assert folder.name == "step-000003"
    assert sorted(p.name for p in folder.iterdir() if p.suffix != ".md") == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "trainer.json",
    ]
    assert value_in(folder) == 0.5
    assert json.loads((folder / "trainer.json").read_text()) == {
        "step": 3,
        "adapter_sha256": "hash-0.5",
        "heldout_success": 0.25,
    }


def test_last_and_best_are_links_that_survive_a_move_of_the_run(checkpoints: Checkpoints, tmp_path: Path) -> None:
    checkpoints.save(adapter(1), 1, {}, is_best=True)
    checkpoints.save(adapter(2), 2, {}, is_best=False)
    moved = checkpoints.folder.rename(tmp_path / "elsewhere")
    there = Checkpoints(folder=moved, keep=2)
    assert value_in(there.path("best")) == 1
    assert value_in(there.path("last")) == 2
    assert value_in(there.path("step-000002")) == 2
    assert there.path("step-000009") is None
    assert (moved / "last").readlink() == Path("step-000002")


def test_pruning_keeps_what_is_linked_and_the_newest(checkpoints: Checkpoints) -> None:
    for step in range(1, 7):
        checkpoints.save(adapter(step), step, {}, is_best=step == 2)
    assert names(checkpoints) == ["best", "last", "step-000002", "step-000005", "step-000006"]
    assert value_in(checkpoints.path("best")) == 2


def test_keeping_one_keeps_the_last_and_the_best(tmp_path: Path) -> None:
    checkpoints = Checkpoints(folder=tmp_path, keep=1)
    for step in range(1, 5):
        checkpoints.save(adapter(step), step, {}, is_best=step == 1)
    assert names(checkpoints) == ["best", "last", "step-000001", "step-000004"]


def test_saving_a_step_again_only_moves_the_links(checkpoints: Checkpoints) -> None:
    checkpoints.save(adapter(1), 1, {}, is_best=False)
    checkpoints.save(adapter(9), 1, {}, is_best=True)
    assert value_in(checkpoints.path("best")) == value_in(checkpoints.path("last")) == 1


def test_what_a_kill_left_behind_disturbs_nothing(checkpoints: Checkpoints) -> None:
    checkpoints.save(adapter(1), 1, {}, is_best=True)
    half = checkpoints.folder / ".step-000002.tmp"
    half.mkdir()
    (half / "adapter_model.safetensors").write_bytes(b"half")
    (half / "stray").write_bytes(b"")
    (checkpoints.folder / ".last.tmp").symlink_to("nowhere")
    assert checkpoints.path("step-000002") is None
    folder = checkpoints.save(adapter(2), 2, {}, is_best=False)
    assert value_in(folder) == value_in(checkpoints.path("last")) == 2
    assert not (folder / "stray").exists()
    assert names(checkpoints) == ["best", "last", "step-000001", "step-000002"]


def test_half_deleted_checkpoints_have_no_name_of_one(checkpoints: Checkpoints) -> None:
    checkpoints.save(adapter(1), 1, {}, is_best=False)
    (checkpoints.folder / ".step-000001.old").mkdir()
    for step in (2, 3, 4):
        checkpoints.save(adapter(step), step, {}, is_best=False)
    assert not (checkpoints.folder / "step-000001").exists()
    assert value_in(checkpoints.path("last")) == 4
