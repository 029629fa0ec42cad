from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path

import pytest
from safetensors.torch import load_file
from transformers import PreTrainedModel

from agentgrpo.engines import adapters
from agentgrpo.engines.adapters import WEIGHTS, AdapterFolders, save_adapter
from agentgrpo.errors import EngineFailure
from agentgrpo.types import Adapter
from tests.learner.episodes import policy


def test_a_version_is_written_whole_and_deleted(model: PreTrainedModel, tmp_path: Path) -> None:
    adapter, folders = policy(model).adapter(), AdapterFolders(tmp_path)
    folder = folders.write(adapter, "policy-v1-1")
    assert folder == tmp_path / "policy-v1-1"
    assert load_file(folder / WEIGHTS).keys() == adapter.tensors.keys()
    folders.delete(folder)
    assert not folder.exists()


def test_a_name_is_used_once(model: PreTrainedModel, tmp_path: Path) -> None:
    adapter, folders = policy(model).adapter(), AdapterFolders(tmp_path)
    folders.write(adapter, "policy-v1-1")
    with pytest.raises(EngineFailure, match="cannot be written"):
        folders.write(adapter, "policy-v1-1")


def test_the_hash_is_of_the_file(model: PreTrainedModel, tmp_path: Path) -> None:
    said = save_adapter(policy(model).adapter(), tmp_path)
    assert said == hashlib.sha256((tmp_path / WEIGHTS).read_bytes()).hexdigest()


def test_a_file_that_lost_bytes_is_noticed(
    model: PreTrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lossy(adapter: Adapter, folder: Path) -> str:
        said = save_adapter(adapter, folder)
        file = folder / WEIGHTS
        file.write_bytes(file.read_bytes()[:-10])
        return said

    monkeypatch.setattr(adapters, "save_adapter", lossy)
    with pytest.raises(EngineFailure, match="not what was written"):
        AdapterFolders(tmp_path).write(policy(model).adapter(), "policy-v1-1")


def test_what_a_killed_program_left_is_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters, "_MEMORY", tmp_path)
    monkeypatch.setattr(adapters, "_NEW_SECONDS", -1.0)
    killed, alive = AdapterFolders(), AdapterFolders()
    assert killed._lock is not None
    killed._lock.close()  # as the system does
    new = AdapterFolders()
    assert sorted(tmp_path.iterdir()) == sorted([alive.root, new.root])
    alive.close()
    new.close()
    assert not list(tmp_path.iterdir())


def test_memory_too_small_for_an_adapter_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory, disk = tmp_path / "memory", tmp_path / "disk"
    memory.mkdir()
    disk.mkdir()
    monkeypatch.setattr(adapters, "_MEMORY", memory)
    monkeypatch.setattr(tempfile, "tempdir", str(disk))
    monkeypatch.setattr(adapters, "_ENOUGH", shutil.disk_usage(memory).total + 1)
    folders = AdapterFolders()
    assert folders.root.parent == disk
    folders.close()


def test_folders_of_their_own_go_with_the_engine(model: PreTrainedModel) -> None:
    folders = AdapterFolders()
    folders.write(policy(model).adapter(), "policy-v1-1")
    folders.close()
    assert not folders.root.exists()
