"""The folder a sandbox keeps between calls, seen from outside: made, read, written, packed, emptied, removed.

What is in it was made by code that may be hostile: no link in it is followed, no name in it is trusted, and nothing may
run in the sandbox meanwhile. It does not know how calls are confined.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import stat
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from agentgrpo.errors import EnvError, ToolFailure
from agentgrpo.tools.sandbox.job import SHM, WORK

_PREFIX, _UNLOCKED = "agentgrpo-sandbox-", "agentgrpo-unlocked-"
_LOCK, _BOX = "lock", "box"
_MAX_MEMBERS = 50_000
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe with nobody at its other end does not block


class Folder:
    """A new folder for one sandbox.

    Args:
        uid: Whose it is; None means this process's user.
    """

    def __init__(self, uid: int | None) -> None:
        self._uid = uid
        made = Path(tempfile.mkdtemp(prefix=_UNLOCKED))
        made.chmod(0o711)  # others of the machine may pass through, not look
        self._lock = os.open(made / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        # Only now may others see it, who would take it for one that was left behind.
        self._base = made.rename(made.with_name(made.name.replace(_UNLOCKED, _PREFIX)))
        self.path = str(self._base / _BOX)
        self._make()

    def _make(self) -> None:
        for path in (self.path, f"{self.path}/{WORK}", f"{self.path}/{SHM}"):
            Path(path).mkdir(0o700)
            self._give(path)

    def _give(self, path: str | int) -> None:
        if self._uid is not None:
            change = os.fchown if isinstance(path, int) else os.lchown
            change(path, self._uid, self._uid)  # type: ignore[arg-type]

    @property
    def beside(self) -> Path:
        """A folder of this process beside the one of the sandbox."""
        return self._base

    def empty(self) -> None:
        """Make it as it was at first."""
        _remove(Path(self.path))
        self._make()

    def remove(self) -> None:
        """Delete it for good; what cannot be deleted now, `sweep` does later."""
        with contextlib.suppress(OSError):
            _remove_base(self._base)
        os.close(self._lock)

    def write(self, name: str, data: bytes) -> None:
        """Write a file of the working folder, with the folders it is in."""
        with self._opened(name, makes=True) as (parent, last):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(last, dir_fd=parent)  # whatever it was, a link too
            self._put(parent, last, data, 0o600)

    def _put(self, parent: int, name: str, data: bytes, mode: int) -> None:
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FILE, mode, dir_fd=parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            os.fchmod(descriptor, mode)
            self._give(descriptor)

    def read(self, name: str, limit: int) -> bytes:
        """Return a file of the working folder.

        Raises:
            FileNotFoundError: there is none, or what is there is no plain file of at most `limit` bytes.
        """
        try:
            with self._opened(name, makes=False) as (parent, last):
                return _content(parent, last, limit)
        except OSError as error:
            raise FileNotFoundError(f"no file '{name}' in the sandbox: {error.strerror or error}") from error

    @contextlib.contextmanager
    def _opened(self, name: str, *, makes: bool) -> Iterator[tuple[int, str]]:
        """Open the folder a file is in, link by link none followed; give it with the file's own name."""
        *folders, last = _parts(name)
        descriptor = os.open(f"{self.path}/{WORK}", _DIRECTORY)
        try:
            for part in folders:
                if makes:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(part, 0o700, dir_fd=descriptor)
                deeper = os.open(part, _DIRECTORY, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = deeper
                if makes:
                    self._give(descriptor)
            yield descriptor, last
        finally:
            os.close(descriptor)

    def pack(self, limit: int) -> bytes:
        """Return the working folder as a tar file: folders, files and links, without owners and times.

        Raises:
            ToolFailure: it is too large, or holds what cannot be read.
        """
        result = io.BytesIO()
        try:
            with tarfile.open(fileobj=result, mode="w", format=tarfile.PAX_FORMAT) as archive:
                for number, (name, found) in enumerate(_walk(f"{self.path}/{WORK}")):
                    if number >= _MAX_MEMBERS or result.tell() + found.st_size > limit:
                        raise ToolFailure(f"the sandbox's files take more than {limit:,} bytes or are too many to keep")
                    self._add(archive, name, found)
        except (OSError, UnicodeError) as error:
            raise ToolFailure(f"the sandbox's files cannot be kept: {error}") from error
        return result.getvalue()

    def _add(self, archive: tarfile.TarFile, name: str, found: os.stat_result) -> None:
        member = tarfile.TarInfo(name)
        member.mode = stat.S_IMODE(found.st_mode) & 0o777
        path = Path(self.path, WORK, name)
        if stat.S_ISDIR(found.st_mode):
            member.type = tarfile.DIRTYPE
            archive.addfile(member)
        elif stat.S_ISLNK(found.st_mode):
            member.type, member.linkname = tarfile.SYMTYPE, str(path.readlink())
            archive.addfile(member)
        elif stat.S_ISREG(found.st_mode):
            data = self.read(name, found.st_size)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))

    def unpack(self, data: bytes) -> None:
        """Make the folder what `pack` returned.

        Raises:
            EnvError: it is no such archive.
        """
        try:
            with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
                members = archive.getmembers()
                for member in members:
                    _parts(member.name)
                self.empty()
                for member in members:
                    if member.isfile():
                        self._extract(archive, member)
                    elif member.isdir():
                        self._folder(member)
                for member in members:  # last, so that nothing is written through one
                    if member.issym():
                        self._link(member)
        except (tarfile.TarError, OSError, EnvError) as error:
            raise EnvError(f"this is no snapshot of a sandbox: {error}") from error

    def _extract(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        content = archive.extractfile(member)
        with self._opened(member.name, makes=True) as (parent, last):
            self._put(parent, last, content.read() if content else b"", member.mode & 0o777)

    def _folder(self, member: tarfile.TarInfo) -> None:
        with self._opened(member.name, makes=True) as (parent, last):
            with contextlib.suppress(FileExistsError):
                os.mkdir(last, dir_fd=parent)
            descriptor = os.open(last, _DIRECTORY, dir_fd=parent)
            os.fchmod(descriptor, member.mode & 0o777 | 0o700)
            self._give(descriptor)
            os.close(descriptor)

    def _link(self, member: tarfile.TarInfo) -> None:
        with self._opened(member.name, makes=True) as (parent, last):
            os.symlink(member.linkname, last, dir_fd=parent)
            if self._uid is not None:
                os.chown(last, self._uid, self._uid, dir_fd=parent, follow_symlinks=False)


def sweep() -> None:
    """Delete the folders of processes of this user that were killed."""
    for base in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # somebody else's, or deleted meanwhile
            lock = os.open(base / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if base.stat().st_uid == os.getuid():
                    _remove_base(base)
            finally:
                os.close(lock)


def _parts(name: str) -> tuple[str, ...]:
    path = PurePosixPath(name)
    if path.is_absolute() or not path.parts or ".." in path.parts or "\0" in name:
        raise EnvError(f"'{name}' is no path inside a sandbox's working folder")
    return path.parts


def _content(parent: int, name: str, limit: int) -> bytes:
    descriptor = os.open(name, os.O_RDONLY | _FILE, dir_fd=parent)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(0, "it is no plain file")
        if found.st_size > limit:
            raise OSError(0, f"it has {found.st_size:,} bytes, at most {limit:,} are read")
        return file.read()


def _walk(root: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yield what is below a folder, in the same order every time, parents first."""
    pending = [""]
    while pending:
        above = pending.pop()
        for entry in sorted(os.scandir(f"{root}/{above}"), key=lambda entry: entry.name):
            name = f"{above}{entry.name}"
            yield name, entry.stat(follow_symlinks=False)
            if entry.is_dir(follow_symlinks=False):
                pending.append(f"{name}/")


def _remove_base(base: Path) -> None:
    for path in [path for path in base.iterdir() if path.is_dir() and not path.is_symlink()]:
        _remove(path)
    (base / _LOCK).unlink(missing_ok=True)  # last: until then a later process knows what this is
    base.rmdir()


def _remove(path: Path) -> None:
    """Delete a folder, however deep it is and whatever its modes: folders in folders are first moved up.

    What is in the folder for trash is out of reach of whoever owns the rest: there a link is known to be one.
    """
    trash = Path(tempfile.mkdtemp(prefix="trash-", dir=path.parent))
    pending, made = [path.rename(trash / "0")], 0
    while pending:
        folder = pending.pop()
        if folder.is_symlink():
            folder.unlink()
            continue
        folder.chmod(0o700)
        for entry in os.scandir(folder):
            if entry.is_dir(follow_symlinks=False):
                made += 1
                pending.append(_move(Path(entry.path), trash / str(made)))
            else:
                os.unlink(entry.path)  # noqa: PTH108 (one object less for each of many files)
        folder.rmdir()
    trash.rmdir()


def _move(folder: Path, target: Path) -> Path:
    try:
        return folder.rename(target)
    except PermissionError:  # an owner may not move a folder against the folder's own mode
        folder.chmod(0o700)
        return folder.rename(target)
