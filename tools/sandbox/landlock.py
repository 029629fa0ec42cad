"""Landlock: a process gives up the file system but for a list, TCP, abstract sockets, and signals to others.

What the kernel's version of it does not know is left out; `tiers` decides whether what is left is enough. Rights that
Landlock has no word for (metadata such as modes and times, other sockets) are not its business.
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Iterable

from agentgrpo.tools.sandbox import kernel

SIGNALS = 6  # the first version that stops signals to other processes

# linux/landlock.h
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_MAKE_CHAR, _MAKE_BLOCK, _TRUNCATE, _IOCTL_DEV = 1 << 6, 1 << 11, 1 << 14, 1 << 15
_FS_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}  # how many rights each version knows
_NET_RIGHTS, _SCOPES = 0b11, 0b11
_PATH_BENEATH = 1
_VERSION_FLAG = 1

_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_DEVICE = _READ_FILE | _WRITE_FILE | _TRUNCATE


class _Ruleset(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def version() -> int:
    """Return the kernel's version of Landlock (its ABI); 0 where it has none."""
    try:
        return kernel.syscall(kernel.LANDLOCK_CREATE_RULESET, "landlock", None, 0, _VERSION_FLAG)
    except OSError:  # ENOSYS, EOPNOTSUPP: not built in, or switched off
        return 0


def restrict(*, abi: int, readable: Iterable[str], writable: Iterable[str], devices: Iterable[str] = ()) -> None:
    """Give up, for this process and all it will start, every file but these. It needs no_new_privileges().

    Args:
        abi: The version to use, at most the kernel's.
        readable: Files and folders to read and run, with all that is in them. One that does not exist is left out.
        writable: Folders to do anything in but make devices.
        devices: Files to read and write.

    Raises:
        OSError: the kernel refused, or a path may not be looked at.
    """
    handled = (1 << _FS_RIGHTS.get(abi, _FS_RIGHTS[5])) - 1
    rules = _Ruleset(handled, _NET_RIGHTS if abi >= 4 else 0, _SCOPES if abi >= SIGNALS else 0)
    size = 8 if abi < 4 else 16 if abi < SIGNALS else 24
    ruleset = kernel.syscall(kernel.LANDLOCK_CREATE_RULESET, "landlock ruleset", ctypes.byref(rules), size, 0)
    try:
        for rights, paths in (
            (_READ, readable),
            (handled & ~(_MAKE_CHAR | _MAKE_BLOCK | _IOCTL_DEV), writable),
            (_DEVICE, devices),
        ):
            for path in paths:
                _allow(ruleset, path, rights & handled)
        kernel.syscall(kernel.LANDLOCK_RESTRICT_SELF, "landlock restrict", ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(parent).st_mode):
            rights &= _OF_FILES
        rule = _PathBeneath(rights, parent)
        number = kernel.LANDLOCK_ADD_RULE
        kernel.syscall(number, f"landlock rule for {path}", ruleset, _PATH_BENEATH, ctypes.byref(rule), 0)
    finally:
        os.close(parent)
