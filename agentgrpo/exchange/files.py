"""Files written whole or not at all, piece by piece: an export may be larger than memory.

It knows nothing of what it writes; where an export goes is decided by `exporting`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from agentgrpo.errors import UserError
from agentgrpo.store.run import sync, writing


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a file to write to; under its name it appears at the end, complete, or never.

    Raises:
        UserError: the name is taken.
        RunError: it cannot be written.
    """
    refuse_existing(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path.name, path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync(path.parent)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a folder to write into, in the same way. A folder that is there and empty may be taken.

    Raises:
        UserError: the name is taken.
        RunError: it cannot be written.
    """
    if path.is_dir() and not any(path.iterdir()):
        path.rmdir()
    refuse_existing(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path.name, path.parent):
        temporary.mkdir(parents=True)
        try:
            yield temporary
            for file in temporary.iterdir():
                sync(file)
            temporary.rename(path)
        finally:
            if temporary.exists():
                remove(temporary)
        sync(path.parent)


def refuse_existing(path: Path) -> None:
    """Say no where something is already.

    Raises:
        UserError: there is.
    """
    if path.exists():
        raise UserError(f"'{path}' exists: give another name with --out, nothing is overwritten.")


def remove(folder: Path) -> None:
    """Delete a folder of files."""
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
