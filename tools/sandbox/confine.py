"""The last steps of the process that becomes a command: it gives up all it must not have, and runs the program.

Each tier is a list of steps; a step that fails ends the process before anything of the command has run. What a tier
promises is said in `tiers`; who watches the command is `supervisor`.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from agentgrpo.family import die_with_parent
from agentgrpo.tools.sandbox import kernel, landlock, namespaces, seccomp
from agentgrpo.tools.sandbox.bubblewrap import command
from agentgrpo.tools.sandbox.job import WORK, Job

SYSTEM = (
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/alternatives",
)
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
NOT_FOUND, NOT_RUN, NOT_CONFINED = 127, 126, 125  # exit codes, as shells use them
_SPARE_PROCESSES = 1024  # for others of the same user, where the kernel counts them too


def become(job: Job, *, stdin: int, output: int, failure: int) -> NoReturn:
    """Turn this process into the job's command. What keeps it from being confined is written to `failure`.

    Args:
        job: The job.
        stdin: An open file the command reads.
        output: A pipe for what it prints.
        failure: A pipe that closes by itself when the command runs.
    """
    try:
        os.setsid()
        os.umask(0o022)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        failure = _keep_only(stdin, output, failure)
        if job.uid is not None:
            _become_user(job.uid)
        if sys.platform == "linux":
            kernel.set_dumpable(True)  # its files in /proc are root's otherwise, also those that set up namespaces
        die_with_parent()
        _STEPS[job.tier](job, failure)
    except BaseException as error:
        os.write(failure, f"{type(error).__name__}: {error}".encode()[:4000])
    os._exit(NOT_CONFINED)


def _keep_only(stdin: int, output: int, failure: int) -> int:
    for source, target in ((stdin, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    if failure != 3:
        os.dup2(failure, 3, inheritable=False)
    os.closerange(4, 1024)
    return 3


def home(job: Job) -> str:
    """Return where the job's folder is for the command."""
    return job.folder if job.tier in ("process", "landlock") else namespaces.HOME


def environment(job: Job) -> dict[str, str]:
    """Return all the variables a command sees: none of this process's own."""
    place = home(job)
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": f"{place}/{WORK}",
        "TMPDIR": place,
        "LANG": "C.UTF-8",
        "PYTHONUTF8": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "GIT_CONFIG_NOSYSTEM": "1",  # or git stops at a file it may not read
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


def _process(job: Job, failure: int) -> None:
    os.chdir(f"{job.folder}/{WORK}")
    _limit(job)
    if sys.platform == "linux":
        kernel.drop_capabilities()
        kernel.no_new_privileges()
    _run(job.argv, environment(job))


def _landlock(job: Job, failure: int) -> None:
    os.chdir(f"{job.folder}/{WORK}")
    _limit(job)
    # With a user of its own there is no file of others that it could change the mode of.
    _restrict(job, [job.folder], keeps_metadata=job.uid is None)
    _run(job.argv, environment(job))


def _namespace(job: Job, failure: int) -> None:
    namespaces.enter(job.folder)
    die_with_parent()  # forgotten when this process got the capabilities of its namespace
    first = os.fork()
    if first:
        os.close(failure)
        _end_like(first)
    die_with_parent()
    os.chdir(f"{namespaces.HOME}/{WORK}")
    _limit(job)
    _restrict(job, [namespaces.HOME, "/dev/shm"], keeps_metadata=False)
    # The first process of a namespace ignores signals it did not ask for, and has to reap: not a task for a command.
    command_id = os.fork()
    if command_id:
        os.close(failure)
        _end_like(command_id)
    os.setsid()
    _run(job.argv, environment(job))


def _bubblewrap(job: Job, failure: int) -> None:
    _limit(job)
    reading, writing = os.pipe()
    os.write(writing, seccomp.program(kernel.machine(), keeps_metadata=False))
    os.close(writing)
    os.set_inheritable(reading, True)
    os.set_inheritable(failure, True)
    # Its environment too can be seen from inside: in that of process 1.
    argv = command(job, SYSTEM, filter_descriptor=reading, status_descriptor=failure)
    os.execve(argv[0], argv, environment(job))


_STEPS = {"process": _process, "landlock": _landlock, "namespace": _namespace, "bubblewrap": _bubblewrap}


def _restrict(job: Job, writable: list[str], *, keeps_metadata: bool) -> None:
    kernel.drop_capabilities()
    kernel.no_new_privileges()
    landlock.restrict(abi=landlock.version(), readable=(*SYSTEM, *job.readable), writable=writable, devices=DEVICES)
    kernel.install_filter(seccomp.program(kernel.machine(), keeps_metadata=keeps_metadata))


def _become_user(uid: int) -> None:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def _limit(job: Job) -> None:
    limits = job.limits
    bounds = {
        "RLIMIT_CORE": 1,  # no file, and no handler of the machine is started, as it would be with 0
        "RLIMIT_CPU": limits.cpu_seconds,
        "RLIMIT_FSIZE": limits.file_size,
        "RLIMIT_NOFILE": limits.open_files,
        "RLIMIT_MEMLOCK": 0,
        "RLIMIT_MSGQUEUE": 0,
        "RLIMIT_RTPRIO": 0,
    }
    if sys.platform == "linux":  # others do not enforce it, or refuse to set it
        bounds["RLIMIT_AS"] = limits.memory
    if job.tier != "bubblewrap":  # it takes this one inside: see `command`
        bounds["RLIMIT_NPROC"] = _most_processes(job)
    for name, bound in bounds.items():
        if (kind := getattr(resource, name, None)) is not None:
            _set(kind, bound, bound + (name == "RLIMIT_CPU"))  # a second between SIGXCPU and SIGKILL
    with contextlib.suppress(OSError):  # no Linux: no such file
        Path("/proc/self/oom_score_adj").write_bytes(b"1000")  # before anything of ours


def _set(kind: int, soft: int, hard: int) -> None:
    ceiling = resource.getrlimit(kind)[1]
    if ceiling != resource.RLIM_INFINITY:
        soft, hard = min(soft, ceiling), min(hard, ceiling)
    resource.setrlimit(kind, (soft, hard))


def _most_processes(job: Job) -> int:
    """Return the limit the kernel is given. It counts per user, and per user namespace."""
    if job.tier == "namespace":
        return job.limits.processes + 2  # those that wait for the command
    if job.uid is not None:
        return job.limits.processes
    return job.limits.processes + _of_this_user() + _SPARE_PROCESSES


def _of_this_user() -> int:
    """Return how many threads this user has on the machine."""
    count, uid = 0, os.getuid()
    for entry in os.scandir("/proc") if sys.platform == "linux" else ():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it ended meanwhile
                if entry.stat().st_uid == uid:
                    count += Path(entry.path, "task").stat().st_nlink - 2
    return count


def _end_like(child: int) -> NoReturn:
    """Reap until a child has ended, then end as it did."""
    while True:
        pid, status = os.wait()
        if pid == child:
            os._exit(exit_code(status))


def exit_code(status: int) -> int:
    """Return a wait status as shells do: 128 and the signal's number where it was a signal."""
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code


def _run(argv: tuple[str, ...], variables: Mapping[str, str]) -> NoReturn:
    try:
        os.execvpe(argv[0], argv, variables)
    except OSError as error:
        os.write(2, f"{argv[0]}: {error.strerror}\n".encode())
        os._exit(NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_RUN)
