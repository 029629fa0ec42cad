"""Checkpoints of a run: an adapter folder plus what the trainer needs to know about it.

Written to a temporary folder, flushed to the disk and renamed, so that a checkpoint is there whole or not at all.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentgrpo.learner.policy import save_adapter
from agentgrpo.types import Adapter

_STEP = "step-{:06d}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoints:
    """The checkpoints folder of a run: `step-NNNNNN/` and the links `last` and `best`."""

    folder: Path
    keep: int

    def save(self, adapter: Adapter, step: int, state: dict[str, Any], *, is_best: bool) -> Path:
        """Write the checkpoint of a step, move the links, prune what neither links to nor is recent."""
        self.folder.mkdir(parents=True, exist_ok=True)
        target = self.folder / _STEP.format(step)
        if not target.exists():
            temporary = self.folder / f".{target.name}.tmp"
            shutil.rmtree(temporary, ignore_errors=True)
            save_adapter(adapter, temporary)
            manifest = {"step": step, "adapter_sha256": adapter.sha256, **state}
            (temporary / "trainer.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
            for path in (*temporary.iterdir(), temporary):
                _sync(path)
            temporary.rename(target)
            _sync(self.folder)
        self._link("last", target)
        if is_best:
            self._link("best", target)
        self._prune()
        return target

    def path(self, which: str) -> Path | None:
        """Return the folder that "last", "best" or "step-NNNNNN" names, if it is there."""
        path = self.folder / which
        return path.resolve() if path.exists() else None

    def _link(self, name: str, target: Path) -> None:
        temporary = self.folder / f".{name}.tmp"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(target.name)
        temporary.rename(self.folder / name)

    def _prune(self) -> None:
        linked = {self.path("last"), self.path("best")}
        steps = sorted(p for p in self.folder.glob("step-*") if p.resolve() not in linked)
        for old in steps[: max(0, len(steps) - self.keep + 1)]:
            # Renamed first: a kill while deleting must not leave half a checkpoint under its name.
            doomed = old.rename(self.folder / f".{old.name}.old")
            shutil.rmtree(doomed, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
