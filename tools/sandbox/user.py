"""Who a sandbox's commands run as, and which Python that user can reach.

Where this process may, each sandbox gets a user that owns nothing and exists for it alone.
"""

from __future__ import annotations

import os
import secrets
import stat
import sys
from functools import cache
from pathlib import Path

from agentgrpo.errors import EnvError

_FIRST, _COUNT = 0x70000000, 0x0FFFFFFF  # numbers nobody gives to users (systemd's UIDS-GIDS page)
_FIRST_SMALL, _COUNT_SMALL = 61184, 4336  # those for services without a user, where a container has no others


def own_user() -> int | None:
    """Return a user for a new sandbox; None when this process may not become another."""
    if os.geteuid() != 0:
        return None
    for first, count in ((_FIRST, _COUNT), (_FIRST_SMALL, _COUNT_SMALL)):
        if _is_mapped(first, first + count - 1):
            return first + secrets.randbelow(count)
    return None


@cache
def _is_mapped(first: int, last: int) -> bool:
    """Return whether this user namespace knows a range of users."""
    try:
        lines = Path("/proc/self/uid_map").read_text(encoding="ascii").splitlines()
    except FileNotFoundError:  # no Linux
        return True
    ranges = [(int(inside), int(count)) for inside, _, count in map(str.split, lines)]
    return any(inside <= first and last < inside + count for inside, count in ranges)


@cache
def default_python(is_own_user: bool) -> str:
    """Return the Python sandboxes run: the one this process's environment was made from, without its packages.

    The packages of the environment itself hold the environment's source, often with tasks and answers.

    Raises:
        EnvError: none can be run by a user of its own.
    """
    base = getattr(sys, "_base_executable", sys.executable)
    found = [base, "/usr/bin/python3", "/usr/local/bin/python3"]
    for path in found:
        if Path(path).exists() and (not is_own_user or is_open_to_others(path)):
            return str(path)
    raise EnvError(
        f"none of {', '.join(found)} can be run by the user sandboxes have here: give Sandbox(python=...) one that "
        "lies in folders everybody may enter, or do not run as root"
    )


def is_open_to_others(path: str) -> bool:
    """Return whether a file or folder can be read, and a program run, by a user that is nobody in particular."""
    real = Path(path).resolve()
    folders = {*real.parents, *Path(path).absolute().parents}
    mode = real.stat().st_mode
    needed = stat.S_IROTH | (stat.S_IXOTH if stat.S_ISDIR(mode) or mode & stat.S_IXUSR else 0)
    return mode & needed == needed and all(folder.stat().st_mode & stat.S_IXOTH for folder in folders)


def homes_of(python: str) -> tuple[str, ...]:
    """Return the folders an interpreter needs to read: its environment and its installation."""
    path = Path(python).absolute()
    installation = path.resolve().parent.parent
    if len(installation.parts) < 2 or installation == Path.home():
        raise EnvError(f"{python} is installed in {installation}: a sandbox could read all of it; take another one")
    homes = [path.parent.parent] if (path.parent.parent / "pyvenv.cfg").exists() else []
    while path.is_symlink():  # an environment's leads to the installation, perhaps by another name of its folder
        path = path.parent / path.readlink()
        homes.append(path.parent.parent)
    return tuple(dict.fromkeys(map(os.path.normpath, (*homes, installation))))
