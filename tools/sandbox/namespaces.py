"""Namespaces of a process's own: processes, network, messages, names, and a file system that is read-only.

It hides no file: that is Landlock's business. Where a system forbids user namespaces, entering raises.
"""

from __future__ import annotations

import ctypes
import os
import socket
from pathlib import Path

from agentgrpo.tools.sandbox import kernel
from agentgrpo.tools.sandbox.job import SHM

# linux/sched.h: mount, cgroup, UTS, IPC, user, process ids, network
_NEW = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
_BIND, _RECURSIVE, _PRIVATE = 1 << 12, 1 << 14, 1 << 18  # linux/mount.h
_READ_ONLY, _NO_SUID, _NO_DEV = 1, 2, 4  # MOUNT_ATTR_*
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000

HOME = "/tmp"  # where a sandbox's folder is seen
USER, NAME = 1000, "sandbox"  # who a command is, and where: the same on every machine


class _Attributes(ctypes.Structure):
    """`struct mount_attr` of linux/mount.h."""

    _fields_ = tuple((name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns"))


def enter(folder: str) -> None:
    """Leave the machine's namespaces: the next child of this process is the first one in its own.

    Args:
        folder: Appears as /tmp, the only place that can be written to; its `shm` as /dev/shm.

    Raises:
        OSError: the system forbids it.
    """
    uid, gid = os.getuid(), os.getgid()
    kernel.unshare(_NEW)
    _tell("setgroups", "deny")
    _tell("uid_map", f"{USER} {uid} 1")
    _tell("gid_map", f"{USER} {gid} 1")
    socket.sethostname(NAME)
    kernel.mount(None, "/", _RECURSIVE | _PRIVATE)
    own = [HOME]
    if Path("/dev/shm").is_dir():
        kernel.mount(f"{folder}/{SHM}", "/dev/shm", _BIND)
        own.append("/dev/shm")
    kernel.mount(folder, HOME, _BIND)
    _mark("/", _Attributes(set=_READ_ONLY | _NO_SUID), _AT_RECURSIVE)
    for path in own:
        _mark(path, _Attributes(set=_NO_SUID | _NO_DEV, clear=_READ_ONLY), 0)


def _tell(name: str, value: str) -> None:
    Path(f"/proc/self/{name}").write_bytes(value.encode())


def _mark(path: str, attributes: _Attributes, flags: int) -> None:
    data, size = ctypes.byref(attributes), ctypes.sizeof(attributes)
    what = f"mount_setattr {path}"
    kernel.syscall(kernel.MOUNT_SETATTR, what, _AT_FDCWD, ctypes.c_char_p(os.fsencode(path)), flags, data, size)
