"""How bubblewrap is told to run a job: a file system of its own, made of what is listed, and namespaces.

It knows options, not whether bubblewrap works on this machine: `tiers` tries.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from agentgrpo.errors import EnvError
from agentgrpo.tools.sandbox.job import SHM, WORK, Job
from agentgrpo.tools.sandbox.namespaces import HOME, NAME, USER

_FOLDERS = ("/usr/local/bin", "/usr/bin", "/bin")
# bubblewrap cannot limit what counts per user namespace: it would need forks itself. bash, then dash, know it as:
_LIMITED = 'ulimit -u "$0" 2>/dev/null || ulimit -p "$0" || exit 126; exec "$@"'


def program() -> str | None:
    """Return where bubblewrap is installed."""
    paths = [f"{folder}/bwrap" for folder in _FOLDERS]
    return next((path for path in paths if os.access(path, os.X_OK)), None)


def command(
    job: Job,
    system: Iterable[str],
    *,
    filter_descriptor: int,
    status_descriptor: int,
) -> list[str]:
    """Return the command that runs a job in bubblewrap.

    Args:
        job: The job.
        system: Files and folders of the machine it may read.
        filter_descriptor: A pipe that holds the seccomp filter.
        status_descriptor: Where bubblewrap writes how the command ended.
    """
    binary = program()
    if binary is None:
        raise EnvError("bubblewrap is not installed")
    namespaces = "--unshare-user --unshare-ipc --unshare-pid --unshare-net --unshare-uts --unshare-cgroup-try"
    options = [*namespaces.split(), "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    options += ["--uid", str(USER), "--gid", str(USER), "--hostname", NAME]
    for path in (*system, *job.readable):
        options += _shown(path)
    # No /proc: bubblewrap's own process is there, which the filter does not hold, and its memory can be written to.
    options += ["--dev", "/dev", "--remount-ro", "/dev"]
    options += ["--bind", job.folder, HOME, "--bind", f"{job.folder}/{SHM}", "/dev/shm", "--remount-ro", "/"]
    options += ["--chdir", f"{HOME}/{WORK}"]
    options += ["--seccomp", str(filter_descriptor), "--json-status-fd", str(status_descriptor)]
    return [binary, *options, "--", "/bin/sh", "-c", _LIMITED, str(job.limits.processes + 1), *job.argv]


def _shown(path: str) -> list[str]:
    if Path(path).is_symlink():  # /bin, where it leads to /usr/bin
        return ["--symlink", str(Path(path).readlink()), path]
    return ["--ro-bind-try", path, path]
