"""Checkpoints of a run: folders that are there whole or not at all, each with a manifest that proves it.

Written to a temporary folder, flushed to the disk and renamed. It knows files and hashes, not what is in them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agentgrpo.store.run import sync, writing
from agentgrpo.types import Json, JsonObject

MANIFEST = "manifest.json"
FORMAT = 1

_STEP = "step-{:06d}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoints:
    """The checkpoints folder of a run: `step-NNNNNN/` and the links `last` and `best`."""

    folder: Path
    keep: int

    def save(self, step: int, write: Callable[[Path], None], **about: Json) -> Path:
        """Write the checkpoint of a step, unless it is there; make it the last; prune what is neither linked nor new.

        Args:
            step: The train step it belongs to.
            write: Puts the files into a folder.
            about: What else the manifest shall say.

        Raises:
            RunError: it cannot be written; those that were there are as they were.
        """
        target = self.folder / _STEP.format(step)
        with writing(f"the checkpoint of step {step}", target):
            self.folder.mkdir(parents=True, exist_ok=True)
            if damage(target) is not None:
                self._write(target, write, {"step": step, **about})
            self._link("last", target)
            self._prune()
        return target

    def mark_best(self, step: int) -> None:
        """Let `best` name the checkpoint of a step, which must be there."""
        target = self.folder / _STEP.format(step)
        with writing("the link to the best checkpoint", target):
            self._link("best", target)

    def path(self, which: str) -> Path | None:
        """Return the folder that "last", "best" or "step-NNNNNN" names, if it is there."""
        path = self.folder / which
        return path.resolve() if path.exists() else None

    def newest(self) -> tuple[Path | None, dict[str, str]]:
        """Return the newest checkpoint that is whole, and what is wrong with each newer one, by name."""
        damaged: dict[str, str] = {}
        for path in sorted(self.folder.glob("step-*"), reverse=True):
            problem = damage(path)
            if problem is None:
                return path, damaged
            damaged[path.name] = problem
        return None, damaged

    def sweep(self) -> None:
        """Remove what a kill left of writing or deleting."""
        for suffix in ("tmp", "old"):
            for rest in self.folder.glob(f".*.{suffix}"):
                _remove(rest)

    def _write(self, target: Path, write: Callable[[Path], None], about: JsonObject) -> None:
        temporary = self.folder / f".{target.name}.tmp"
        _remove(temporary)
        try:
            temporary.mkdir()
            write(temporary)
            names = sorted(p.name for p in temporary.iterdir())
            files = {name: _facts(temporary / name) for name in names}
            (temporary / MANIFEST).write_bytes(_manifest({"format": FORMAT, **about, "files": files}))
            for path in (*temporary.iterdir(), temporary):
                sync(path)
            if target.exists():
                self._discard(target)  # damaged, or it would not be written again
            temporary.rename(target)
            sync(self.folder)
        except BaseException:
            _remove(temporary)  # the space is needed
            raise

    def _link(self, name: str, target: Path) -> None:
        temporary = self.folder / f".{name}.tmp"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(target.name)
        temporary.rename(self.folder / name)
        sync(self.folder)

    def _prune(self) -> None:
        linked = {self.path("last"), self.path("best")}
        steps = sorted(p for p in self.folder.glob("step-*") if p.resolve() not in linked)
        for old in steps[: max(0, len(steps) - self.keep + 1)]:
            self._discard(old)

    def _discard(self, path: Path) -> None:
        """Rename, then delete: a kill while deleting must not leave half a checkpoint under its name."""
        doomed = self.folder / f".{path.name}.old"
        _remove(doomed)
        _remove(path.rename(doomed))


def damage(folder: Path) -> str | None:
    """Return what is wrong with a checkpoint, None when every byte is as it was written."""
    try:
        written = (folder / MANIFEST).read_bytes()
        manifest = json.loads(written)
        # Rendered again it must be what is there: so every byte of it counts, the white space too.
        if not isinstance(manifest, dict) or _manifest(manifest) != written:
            return f"its {MANIFEST} was changed"
        for name, facts in manifest["files"].items():
            if _facts(folder / name) != facts:
                return f"{name} is not what was written"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError, RecursionError) as error:
        return f"its {MANIFEST} cannot be read: {error}"
    return None


def _manifest(about: JsonObject) -> bytes:
    """Return a manifest as bytes, with a hash of itself."""
    body = {name: value for name, value in about.items() if name != "sha256"}
    own = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return json.dumps({**body, "sha256": own}, indent=1, sort_keys=True).encode() + b"\n"


def _facts(path: Path) -> JsonObject:
    with path.open("rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "size": os.fstat(file.fileno()).st_size}


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)
