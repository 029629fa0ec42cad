"""Adapters as folders: written where another process can load them, checked, deleted.

Knows peft's file format and nothing of who loads it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

import peft
from safetensors.torch import save

from agentgrpo.errors import EngineFailure
from agentgrpo.types import Adapter

WEIGHTS = "adapter_model.safetensors"
_PREFIX, _LOCK = "agentgrpo-adapters-", ".lock"
_NEW_SECONDS = 60.0  # a folder younger than this may not be locked yet
_MEMORY = Path("/dev/shm")  # memory-backed on Linux: an adapter that lives for a step need not reach a disk
_ENOUGH = 1 << 30  # bytes free there; containers have 64 MB by default, less than an adapter of a model of some size


def save_adapter(adapter: Adapter, folder: Path) -> str:
    """Write an adapter as a folder that `peft.PeftModel.from_pretrained` and vLLM load; return its weights' SHA-256."""
    folder.mkdir(parents=True, exist_ok=True)
    content = save(dict(adapter.tensors), metadata={"format": "pt"})
    (folder / WEIGHTS).write_bytes(content)
    peft.LoraConfig(**adapter.config).save_pretrained(str(folder))
    return hashlib.sha256(content).hexdigest()


class AdapterFolders:
    """The folders of the versions that are alive, in one place of their own.

    A name is used once: an engine that knows a path by heart would go on with the old weights.

    Args:
        where: The folder they are made in; None: one of their own, in memory where there is such storage.
    """

    def __init__(self, where: Path | None = None) -> None:
        self._lock: IO[str] | None = None
        self.root = where or self._own()

    def _own(self) -> Path:
        parent = _MEMORY if _has_room(_MEMORY) else Path(tempfile.gettempdir())
        _sweep(parent)
        root = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        self._lock = (root / _LOCK).open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        return root

    def write(self, adapter: Adapter, name: str) -> Path:
        """Write an adapter under a name that was never used, and read it again.

        Raises:
            EngineFailure: it cannot be written, or what is there is not what was written.
        """
        folder = self.root / name
        try:
            folder.mkdir(parents=True)
            expected = save_adapter(adapter, folder)
            found = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
        except OSError as error:
            raise EngineFailure(f"the adapter of {name} cannot be written to '{folder}': {error}") from error
        if found != expected:
            raise EngineFailure(f"the adapter of {name} in '{folder}' is not what was written there: is the disk full?")
        return folder

    def delete(self, folder: Path) -> None:
        """Delete a version's folder; only once no engine has it loaded."""
        shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """Delete all of them."""
        shutil.rmtree(self.root, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()


def _has_room(folder: Path) -> bool:
    return folder.is_dir() and os.access(folder, os.W_OK) and shutil.disk_usage(folder).free >= _ENOUGH


def _sweep(parent: Path) -> None:
    """Delete the folders of programs that were killed: nobody holds their lock any more."""
    for root in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # another's, or gone meanwhile
            is_new = time.time() - root.stat().st_mtime < _NEW_SECONDS
            with (root / _LOCK).open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not is_new:
                    shutil.rmtree(root)
