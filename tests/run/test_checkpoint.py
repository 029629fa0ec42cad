from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgrpo.errors import RunError
from agentgrpo.run.checkpoint import MANIFEST, Checkpoints, damage


def holding(value: int, *, size: int = 8) -> Callable[[Path], None]:
    """Return what writes the files of a checkpoint."""

    def write(folder: Path) -> None:
        (folder / "adapter_model.safetensors").write_bytes(bytes([value]) * size)
        (folder / "trainer.json").write_text(json.dumps({"value": value}))

    return write


def value_in(folder: Path | None) -> int:
    assert folder is not None
    assert damage(folder) is None
    return int(json.loads((folder / "trainer.json").read_text())["value"])


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(folder=tmp_path / "checkpoints", keep=2)


def names(checkpoints: Checkpoints) -> list[str]:
    return sorted(path.name for path in checkpoints.folder.iterdir())


def test_a_checkpoint_is_its_files_and_a_manifest_of_them(checkpoints: Checkpoints) -> None:
    folder = checkpoints.save(3, holding(5), config="abc")
    assert folder.name == "step-000003"
    assert sorted(p.name for p in folder.iterdir()) == ["adapter_model.safetensors", MANIFEST, "trainer.json"]
    manifest = json.loads((folder / MANIFEST).read_text())
    assert (manifest["step"], manifest["config"], manifest["format"]) == (3, "abc", 1)
    assert manifest["files"]["adapter_model.safetensors"]["size"] == 8


def test_last_and_best_are_links_that_survive_a_move_of_the_run(checkpoints: Checkpoints, tmp_path: Path) -> None:
    checkpoints.save(1, holding(1))
    checkpoints.mark_best(1)
    checkpoints.save(2, holding(2))
    moved = checkpoints.folder.rename(tmp_path / "elsewhere")
    there = Checkpoints(folder=moved, keep=2)
    assert value_in(there.path("best")) == 1
    assert value_in(there.path("last")) == 2
    assert value_in(there.path("step-000002")) == 2
    assert there.path("step-000009") is None
    assert (moved / "last").readlink() == Path("step-000002")


def test_pruning_keeps_what_is_linked_and_the_newest(checkpoints: Checkpoints) -> None:
    for step in range(1, 7):
        checkpoints.save(step, holding(step))
        if step == 2:
            checkpoints.mark_best(step)
    assert names(checkpoints) == ["best", "last", "step-000002", "step-000005", "step-000006"]
    assert value_in(checkpoints.path("best")) == 2


def test_keeping_one_keeps_the_last_and_the_best(tmp_path: Path) -> None:
    checkpoints = Checkpoints(folder=tmp_path, keep=1)
    for step in range(1, 5):
        checkpoints.save(step, holding(step))
        if step == 1:
            checkpoints.mark_best(step)
    assert names(checkpoints) == ["best", "last", "step-000001", "step-000004"]


def test_saving_a_step_again_only_moves_the_links_unless_it_was_damaged(checkpoints: Checkpoints) -> None:
    folder = checkpoints.save(1, holding(1))
    checkpoints.save(1, holding(9))
    assert value_in(checkpoints.path("last")) == 1
    (folder / "trainer.json").write_text("{")
    checkpoints.save(1, holding(9))
    assert value_in(checkpoints.path("last")) == 9
    assert names(checkpoints) == ["last", "step-000001"]


def test_what_a_kill_left_behind_disturbs_nothing(checkpoints: Checkpoints) -> None:
    checkpoints.save(1, holding(1))
    half = checkpoints.folder / ".step-000002.tmp"
    half.mkdir()
    (half / "adapter_model.safetensors").write_bytes(b"half")
    (half / "stray").write_bytes(b"")
    (checkpoints.folder / ".last.tmp").symlink_to("nowhere")
    (checkpoints.folder / ".step-000001.old").mkdir()
    (checkpoints.folder / ".step-000001.old" / "half").touch()
    assert checkpoints.newest()[0] == checkpoints.path("step-000001")
    folder = checkpoints.save(2, holding(2))
    assert value_in(folder) == value_in(checkpoints.path("last")) == 2
    assert not (folder / "stray").exists()
    checkpoints.sweep()
    assert names(checkpoints) == ["last", "step-000001", "step-000002"]


def test_half_deleted_checkpoints_have_no_name_of_one(checkpoints: Checkpoints) -> None:
    checkpoints.save(1, holding(1))
    (checkpoints.folder / ".step-000001.old").mkdir()
    (checkpoints.folder / ".step-000001.old" / "half").touch()
    for step in (2, 3, 4):
        checkpoints.save(step, holding(step))
    assert not (checkpoints.folder / "step-000001").exists()
    assert value_in(checkpoints.path("last")) == 4


def test_the_newest_whole_one_is_found_whatever_last_says(checkpoints: Checkpoints) -> None:
    assert checkpoints.newest() == (None, {})
    for step in (1, 2):
        checkpoints.save(step, holding(step))
    (checkpoints.folder / "last").unlink()
    assert checkpoints.newest() == (checkpoints.folder / "step-000002", {})
    (checkpoints.folder / "step-000002" / "adapter_model.safetensors").unlink()
    found, damaged = checkpoints.newest()
    assert value_in(found) == 1
    assert damaged == {"step-000002": "adapter_model.safetensors is missing"}


def test_every_byte_of_a_manifest_counts(checkpoints: Checkpoints) -> None:
    folder = checkpoints.save(1, holding(1))
    path = folder / MANIFEST
    written = path.read_bytes()
    for place in range(len(written)):
        path.write_bytes(written[:place])
        assert damage(folder) is not None, f"cut off at byte {place}"
        for flip in (0x01, 0x20, 0x80):
            path.write_bytes(written[:place] + bytes([written[place] ^ flip]) + written[place + 1 :])
            assert damage(folder) is not None, f"byte {place} changed"
    path.write_bytes(written)
    assert damage(folder) is None


@given(st.binary(max_size=40))
def test_what_is_no_manifest_is_damage(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.getbasetemp() / "no-manifest"
    folder.mkdir(exist_ok=True)
    (folder / MANIFEST).write_bytes(data)
    assert damage(folder) is not None


def test_a_disk_that_is_full_leaves_what_was_there(checkpoints: Checkpoints) -> None:
    checkpoints.save(1, holding(1))

    def full(folder: Path) -> None:
        (folder / "adapter_model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(RunError, match=r"the checkpoint of step 2 cannot be written to .*step-000002': No space left"):
        checkpoints.save(2, full)
    assert names(checkpoints) == ["last", "step-000001"]
    assert value_in(checkpoints.path("last")) == 1
    shutil.rmtree(checkpoints.folder)
