"""Calls into the Linux kernel that Python has no function for.

It does not know what they are used for.
"""

from __future__ import annotations

import ctypes
import os
import platform
from typing import Any

# The numbers of these are the same on every architecture.
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446
MOUNT_SETATTR = 442

_PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 4, 22, 38  # linux/prctl.h
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION = 0x20080522  # linux/capability.h, version 3

_libc = ctypes.CDLL(None, use_errno=True)


class _Program(ctypes.Structure):
    """`struct sock_fprog` of linux/filter.h."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


class _CapHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


def machine() -> str:
    """Return the architecture by the name used here: "x86_64", "aarch64", or another."""
    name = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name, name)


def checked(result: int, what: str) -> int:
    """Return a call's result.

    Raises:
        OSError: it failed.
    """
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def syscall(number: int, what: str, *arguments: Any) -> int:
    """Call the kernel by number; ints are passed as long."""
    values = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    return checked(_libc.syscall(ctypes.c_long(number), *values), what)


def unshare(flags: int) -> None:
    """Leave namespaces for new ones."""
    checked(_libc.unshare(flags), "unshare")


def mount(source: str | None, target: str, flags: int) -> None:
    """Mount without a file system type: bind, or change propagation."""
    names = [None if name is None else os.fsencode(name) for name in (source, target)]
    checked(_libc.mount(*names, None, ctypes.c_ulong(flags), None), f"mount {target}")


def no_new_privileges() -> None:
    """Let no program this process runs gain anything, such as by a set-user-id bit."""
    _prctl("PR_SET_NO_NEW_PRIVS", _PR_SET_NO_NEW_PRIVS, 1)


def set_dumpable(is_dumpable: bool) -> None:
    """Say whether others of the same user may trace this process, read its memory, and see its /proc files."""
    _prctl("PR_SET_DUMPABLE", _PR_SET_DUMPABLE, int(is_dumpable))


def install_filter(program: bytes) -> None:
    """Install a seccomp filter on this process and all it will start.

    Args:
        program: Instructions of classic BPF, 8 bytes each.
    """
    loaded = _Program(len(program) // 8, program)
    _prctl("PR_SET_SECCOMP", _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(loaded))


def drop_capabilities() -> None:
    """Give up every capability of this process."""
    header = _CapHeader(_CAPABILITY_VERSION, 0)
    checked(_libc.capset(ctypes.byref(header), (ctypes.c_uint32 * 6)()), "capset")


def _prctl(what: str, option: int, *arguments: Any) -> None:
    values = [ctypes.c_ulong(value) if isinstance(value, int) else value for value in arguments]
    values += [ctypes.c_ulong(0)] * (4 - len(values))
    checked(_libc.prctl(option, *values), what)
