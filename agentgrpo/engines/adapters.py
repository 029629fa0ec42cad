"""Adapters as folders: written where another process can load them, checked, deleted.

Knows peft's file format and nothing of who loads it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

import peft
from safetensors.torch import save

from agentgrpo.errors import EngineFailure
from agentgrpo.types import Adapter

WEIGHTS = "adapter_model.safetensors"
_MEMORY = Path("/dev/shm")  # memory-backed on Linux: an adapter that lives for a step need not reach a disk


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
        self.root = where or Path(tempfile.mkdtemp(prefix="agentgrpo-adapters-", dir=_memory()))

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


def _memory() -> Path | None:
    return _MEMORY if _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK) else None
