# ruff: noqa: PTH101, PTH116, PTH123, PTH208 (the calls themselves are what is tried)
"""What code in a sandbox may try, one function each: it returns something where it got through, else None or an error.

This file runs inside the sandbox, as a program: nothing but the standard library. With it comes which tier promises to
stop an attack, where commands are this process's user, and where each sandbox has a user of its own.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import resource
import signal
import socket
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Targets = dict[str, Any]
libc = ctypes.CDLL(None, use_errno=True)
# Numbers of system calls: x86_64, aarch64.
NUMBERS = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "kcmp": (312, 272),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "perf_event_open": (298, 241),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_setup": (206, 0),
    "add_key": (248, 217),
    "keyctl": (250, 219),
    "inotify_init1": (294, 26),
    "inotify_add_watch": (254, 27),
    "shmget": (29, 194),
    "mq_open": (240, 180),
    "init_module": (175, 105),
    "clock_settime": (227, 112),
    "open_by_handle_at": (304, 265),
    "quotactl": (179, 60),
    "swapon": (167, 224),
    "kexec_load": (246, 104),
    "clone3": (435, 435),
    "open_tree": (428, 428),
    "fsopen": (430, 430),
    "move_pages": (279, 239),
}


@dataclass(frozen=True)
class Attack:
    name: str
    kind: str
    does: str
    run: Callable[[Targets], object]
    stopped_by: str  # the weakest tier that promises to stop it
    stopped_for_own_user: str  # the same, where a sandbox has its own user
    may_fail_anyway: bool  # some kernels and settings stop it without any sandbox


ATTACKS: dict[str, Attack] = {}
Function = Callable[[Targets], object]


def attack(
    kind: str, does: str, stopped_by: str = "process", own: str | None = None, *, may_fail_anyway: bool = False
) -> Callable[[Function], Function]:
    def mark(function: Function) -> Function:
        name = function.__name__
        ATTACKS[name] = Attack(name, kind, does, function, stopped_by, own or stopped_by, may_fail_anyway)
        return function

    return mark


def call(name: str, *arguments: Any) -> int:
    number = NUMBERS[name][["x86_64", "aarch64"].index(os.uname().machine)]
    values = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    return done(libc.syscall(ctypes.c_long(number), *values))


def done(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


# Files

FILES = "files"


@attack(FILES, "read a file of the machine that everybody may read", "landlock")
def read_file(targets: Targets) -> object:
    return Path(targets["secret"]).read_text()


@attack(FILES, "read it through a symbolic link in the working folder", "landlock")
def read_through_link(targets: Targets) -> object:
    Path("link").symlink_to(targets["secret"])
    return Path("link").read_text()


@attack(FILES, "read it through a link to its folder", "landlock")
def read_through_folder_link(targets: Targets) -> object:
    Path("folder").symlink_to(Path(targets["secret"]).parent)
    return Path("folder", Path(targets["secret"]).name).read_text()


@attack(FILES, "read it through /proc/self/root", "landlock")
def read_through_proc_root(targets: Targets) -> object:
    return Path("/proc/self/root" + targets["secret"]).read_text()


@attack(FILES, "read it through /proc/self/cwd and `..`", "landlock")
def read_through_proc_cwd(targets: Targets) -> object:
    return Path("/proc/self/cwd" + "/.." * 20 + targets["secret"]).read_text()


@attack(FILES, "read it through a relative path", "landlock")
def read_through_dots(targets: Targets) -> object:
    return Path("../" * 20 + targets["secret"]).read_text()


@attack(FILES, "make a hard link to it and read that", "landlock", may_fail_anyway=True)
def read_through_hard_link(targets: Targets) -> object:
    os.link(targets["secret"], "hard")
    return Path("hard").read_text()


@attack(FILES, "list a folder of the machine", "landlock")
def list_folder(targets: Targets) -> object:
    return os.listdir(Path(targets["secret"]).parent)


@attack(FILES, "learn that a file exists, its size and its times", "bubblewrap")
def look_at_file(targets: Targets) -> object:
    return os.stat(targets["secret"]).st_size


@attack(FILES, "read a file of another sandbox", "landlock", "process")
def read_other_sandbox(targets: Targets) -> object:
    return Path(targets["other_sandbox"]).read_text()


@attack(FILES, "read /etc/passwd", "landlock")
def read_passwd(targets: Targets) -> object:
    return Path("/etc/passwd").read_text()


@attack(FILES, "read /etc/shadow")
def read_shadow(targets: Targets) -> object:
    return Path("/etc/shadow").read_text()


@attack(FILES, "list root's home")
def list_root_home(targets: Targets) -> object:
    return os.listdir("/root")


@attack(FILES, "write into the user's .bashrc", "landlock", "process")
def write_bashrc(targets: Targets) -> object:
    with open(targets["bashrc"], "a") as file:
        return file.write("evil\n")


@attack(FILES, "write into a file everybody may write", "landlock")
def write_file(targets: Targets) -> object:
    with open(targets["open_file"], "a") as file:
        return file.write("evil\n")


@attack(FILES, "make a file in a folder everybody may write", "landlock")
def make_file(targets: Targets) -> object:
    return Path(targets["open_folder"], "new").write_text("evil")


@attack(FILES, "delete a file there", "landlock")
def delete_file(targets: Targets) -> object:
    Path(targets["open_folder"], "deleted").unlink()
    return True


@attack(FILES, "rename a file there", "landlock")
def rename_file(targets: Targets) -> object:
    folder = Path(targets["open_folder"])
    return folder.joinpath("renamed").rename(folder / "other")


@attack(FILES, "move a file from there into the sandbox", "landlock", may_fail_anyway=True)
def move_file(targets: Targets) -> object:
    return Path(targets["open_folder"], "moved").rename("moved")


@attack(FILES, "cut a file off by its path", "landlock")
def truncate_file(targets: Targets) -> object:
    os.truncate(targets["open_file"], 0)
    return True


@attack(FILES, "change the mode of the user's file", "landlock", "process")
def chmod_file(targets: Targets) -> object:
    os.chmod(targets["bashrc"], 0o777)
    return True


@attack(FILES, "change the times of the user's file", "landlock", "process")
def set_times(targets: Targets) -> object:
    os.utime(targets["bashrc"], (0, 0))
    return True


@attack(FILES, "set an attribute of the user's file", "landlock", "process", may_fail_anyway=True)
def set_attribute(targets: Targets) -> object:
    os.setxattr(targets["bashrc"], "user.evil", b"1")
    return True


@attack(FILES, "change the mode of the user's file that it may read, while it is open", "landlock", "process")
def chmod_open_file(targets: Targets) -> object:
    os.fchmod(os.open(targets["shown"], os.O_RDONLY), 0o777)
    return True


@attack(FILES, "set an attribute of it likewise", "landlock", "process", may_fail_anyway=True)
def set_attribute_of_open_file(targets: Targets) -> object:
    os.setxattr(os.open(targets["shown"], os.O_RDONLY), "user.evil", b"1")
    return True


@attack(FILES, "take disk in no time, beyond the limit of a file (fallocate)", "landlock", may_fail_anyway=True)
def take_disk(targets: Targets) -> object:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    size = 2**20 + (0 if limit == resource.RLIM_INFINITY else limit)
    descriptor = os.open("large", os.O_RDWR | os.O_CREAT)
    try:
        done(libc.fallocate(descriptor, 1, ctypes.c_long(0), ctypes.c_long(size)))  # 1: keeps the size it has
        return os.fstat(descriptor).st_blocks * 512 >= size
    finally:
        Path("large").unlink()


@attack(FILES, "leave a file in the machine's /tmp", "landlock")
def write_tmp(targets: Targets) -> object:
    return Path("/tmp", targets["mark"]).write_text("evil")  # seen from outside?


@attack(FILES, "leave a file in the machine's /dev/shm", "landlock")
def write_shm(targets: Targets) -> object:
    return Path("/dev/shm", targets["mark"]).write_text("evil")  # seen from outside?


@attack(FILES, "schedule a command with cron or at")
def schedule(targets: Targets) -> object:
    for path in ("/etc/cron.d/evil", "/var/spool/cron/crontabs/evil", "/var/spool/cron/atjobs/evil"):
        with suppress(OSError):
            return Path(path).write_text("* * * * * root true\n")
    for argv in (["crontab", "-"], ["at", "now"]):
        with suppress(FileNotFoundError, PermissionError):
            done = subprocess.run(argv, input=b"* * * * * true\n", capture_output=True, timeout=3)
            if done.returncode == 0:
                return argv
    return None


@attack(FILES, "watch a folder of the machine (inotify)", "landlock")
def watch_folder(targets: Targets) -> object:
    watcher = call("inotify_init1", 0)
    folder = ctypes.c_char_p(os.fsencode(targets["open_folder"]))
    return call("inotify_add_watch", watcher, folder, 0xFFF) and True


@attack(FILES, "open a file by its handle")
def open_by_handle(targets: Targets) -> object:
    handle = struct.pack("Ii8s", 8, 1, b"\2" + b"\0" * 7)
    return call("open_by_handle_at", os.open("/usr", os.O_RDONLY), handle, os.O_RDONLY)


# Devices

DEVICES = "devices"


@attack(DEVICES, "make a device node")
def make_device(targets: Targets) -> object:
    os.mknod("disk", stat.S_IFBLK | 0o600, os.makedev(8, 0))
    return True


@attack(DEVICES, "read /dev/mem, /proc/kcore or a disk")
def read_raw_memory(targets: Targets) -> object:
    disks = sorted(str(path) for path in Path("/dev").glob("[svx][dv][a-z]*"))
    for path in ("/dev/mem", "/dev/kmem", "/proc/kcore", *disks):
        with suppress(OSError):
            return os.open(path, os.O_RDONLY)
    return None


@attack(DEVICES, "write to /proc/sysrq-trigger or /proc/sys")
def write_proc(targets: Targets) -> object:
    for path in ("/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/sys/kernel/uevent_helper"):
        with suppress(OSError):
            return os.open(path, os.O_WRONLY)
    return None


@attack(DEVICES, "open /dev/fuse", "landlock", may_fail_anyway=True)
def open_fuse(targets: Targets) -> object:
    return os.open("/dev/fuse", os.O_RDWR)


@attack(DEVICES, "type into the terminal")
def open_terminal(targets: Targets) -> object:
    return os.open("/dev/tty", os.O_RDWR)


# Other processes

PROCESSES = "processes"


@attack(PROCESSES, "read the environment of process 1 of the machine")
def read_first_environment(targets: Targets) -> object:
    text = Path("/proc/1/environ").read_bytes()
    return text if targets["environment_mark"].encode() in text or b"HOME=/tmp/work" not in text else None


@attack(PROCESSES, "write into the memory of process 1, of the machine or the sandbox")
def open_first_memory(targets: Targets) -> object:
    return os.open("/proc/1/mem", os.O_RDWR)


@attack(PROCESSES, "read another process's environment", "landlock", "process")
def read_environment(targets: Targets) -> object:
    return Path(f"/proc/{targets['victim']}/environ").read_bytes() or None


@attack(PROCESSES, "open another process's memory", "landlock", "process", may_fail_anyway=True)
def open_memory(targets: Targets) -> object:
    return os.open(f"/proc/{targets['victim']}/mem", os.O_RDWR)


@attack(PROCESSES, "read another process's memory (process_vm_readv)", "landlock", "process", may_fail_anyway=True)
def read_memory(targets: Targets) -> object:
    buffer = ctypes.create_string_buffer(8)
    here = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), 8)
    there = (ctypes.c_size_t * 2)(targets["victim_address"], 8)
    return call("process_vm_readv", targets["victim"], ctypes.byref(here), 1, ctypes.byref(there), 1, 0)


@attack(PROCESSES, "trace another process (ptrace)", "landlock", "process", may_fail_anyway=True)
def trace(targets: Targets) -> object:
    return call("ptrace", 0x4206, targets["victim"], 0, 0) == 0


@attack(PROCESSES, "trace the sandbox's own process")
def trace_parent(targets: Targets) -> object:
    return call("ptrace", 0x4206, targets["parent"], 0, 0) == 0


@attack(PROCESSES, "take a file another process has open (pidfd_getfd)", "landlock", "process", may_fail_anyway=True)
def take_file(targets: Targets) -> object:
    return call("pidfd_getfd", call("pidfd_open", targets["victim"], 0), 1, 0)


@attack(PROCESSES, "compare with another process (kcmp)", "landlock", "process", may_fail_anyway=True)
def compare(targets: Targets) -> object:
    return call("kcmp", os.getpid(), targets["victim"], 1, 0, 0) >= 0


@attack(PROCESSES, "send another process a signal", "landlock", "process")
def send_signal(targets: Targets) -> object:
    os.kill(targets["victim"], signal.SIGCONT)
    return True


@attack(PROCESSES, "send it one through a pidfd", "landlock", "process")
def send_signal_by_descriptor(targets: Targets) -> object:
    signal.pidfd_send_signal(call("pidfd_open", targets["victim"], 0), signal.SIGCONT)
    return True


@attack(PROCESSES, "lower another process's priority", "landlock", "process")
def renice(targets: Targets) -> object:
    os.setpriority(os.PRIO_PROCESS, targets["victim"], 19)
    return True


@attack(PROCESSES, "lower the priority of all processes of the user", "landlock", "process")
def renice_all(targets: Targets) -> object:
    if targets["victim_uid"] != os.getuid():
        return None
    os.setpriority(os.PRIO_USER, targets["victim_uid"], 19)
    return True


@attack(PROCESSES, "change another process's limits", "landlock", "process")
def limit_other(targets: Targets) -> object:
    resource.prlimit(targets["victim"], resource.RLIMIT_CORE, (0, 0))
    return True


@attack(PROCESSES, "move another process to one core", "landlock", "process")
def pin_other(targets: Targets) -> object:
    os.sched_setaffinity(targets["victim"], {min(os.sched_getaffinity(0))})
    return True


@attack(PROCESSES, "make a segment of shared memory (System V)", "landlock")
def shared_memory(targets: Targets) -> object:
    segment = call("shmget", 0, 4096, 0o1600)
    libc.shmctl(segment, 0, None)
    return True


@attack(PROCESSES, "make a message queue")
def message_queue(targets: Targets) -> object:
    return call("mq_open", ctypes.c_char_p(targets["mark"].encode()), os.O_RDWR | os.O_CREAT, 0o600, None)


# Network

NETWORK = "network"


@attack(NETWORK, "connect over TCP", "landlock")
def tcp(targets: Targets) -> object:
    with socket.create_connection(("127.0.0.1", targets["tcp"]), timeout=2) as connection:
        return connection.recv(6)


@attack(NETWORK, "listen on TCP", "landlock")
def tcp_listen(targets: Targets) -> object:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()


@attack(NETWORK, "send over UDP", "landlock")
def udp(targets: Targets) -> object:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.settimeout(2)
        sender.sendto(b"evil", ("127.0.0.1", targets["udp"]))
        return sender.recv(6)


@attack(NETWORK, "use IPv6", "landlock", may_fail_anyway=True)
def ipv6(targets: Targets) -> object:
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as server:
        server.bind(("::1", 0))
        return server.getsockname()


@attack(NETWORK, "connect to a unix socket", "landlock")
def unix_socket(targets: Targets) -> object:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(targets["unix"])
        return connection.recv(6)


@attack(NETWORK, "connect to an abstract unix socket", "landlock")
def abstract_socket(targets: Targets) -> object:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect("\0" + targets["abstract"])
        return connection.recv(6)


@attack(NETWORK, "send to a unix socket from one of a pair", "landlock")
def socket_pair(targets: Targets) -> object:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        return ours.sendto(b"evil", targets["unix_datagram"])


@attack(NETWORK, "ask the kernel over netlink", "landlock")
def netlink(targets: Targets) -> object:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as connection:
        connection.bind((0, 0))
        return connection.getsockname()


@attack(NETWORK, "open a raw socket")
def raw_socket(targets: Targets) -> object:
    return socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).fileno()


@attack(NETWORK, "open a packet socket")
def packet_socket(targets: Targets) -> object:
    return socket.socket(socket.AF_PACKET, socket.SOCK_RAW).fileno()


@attack(NETWORK, "open a vsock to the hypervisor", "landlock", may_fail_anyway=True)
def vsock(targets: Targets) -> object:
    return socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).fileno()


@attack(NETWORK, "open a socket of the kernel's cryptography", "landlock", may_fail_anyway=True)
def crypto_socket(targets: Targets) -> object:
    return socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET).fileno()


# The kernel

KERNEL = "kernel"


@attack(KERNEL, "mount")
def mount(targets: Targets) -> object:
    return done(libc.mount(b"none", b".", b"tmpfs", 0, None)) == 0


@attack(KERNEL, "mount by the newer calls")
def mount_anew(targets: Targets) -> object:
    with suppress(OSError):
        return call("fsopen", ctypes.c_char_p(b"tmpfs"), 0)
    return call("open_tree", -100, ctypes.c_char_p(b"/"), 1)


@attack(KERNEL, "make a user namespace (unshare)", "landlock", may_fail_anyway=True)
def unshare(targets: Targets) -> object:
    return done(libc.unshare(0x10000000)) == 0


@attack(KERNEL, "make a user namespace (clone)", "landlock", may_fail_anyway=True)
def clone(targets: Targets) -> object:
    number = {"x86_64": 56, "aarch64": 220}[os.uname().machine]
    child = done(libc.syscall(ctypes.c_long(number), ctypes.c_long(0x10000000 | 17), *[ctypes.c_long(0)] * 4))
    if child == 0:
        os._exit(0)
    return os.waitpid(child, 0)


@attack(KERNEL, "make a user namespace (clone3)", "landlock", may_fail_anyway=True)
def clone3(targets: Targets) -> object:
    arguments = struct.pack("8Q", 0x10000000, 0, 0, 0, 17, 0, 0, 0)
    child = call("clone3", ctypes.c_char_p(arguments), len(arguments))
    if child == 0:
        os._exit(0)
    return os.waitpid(child, 0)


@attack(KERNEL, "change the root folder")
def chroot(targets: Targets) -> object:
    os.chroot(".")
    return True


@attack(KERNEL, "pivot the root folder")
def pivot_root(targets: Targets) -> object:
    return call("pivot_root", ctypes.c_char_p(b"."), ctypes.c_char_p(b".")) == 0


@attack(KERNEL, "enter the namespaces of process 1")
def enter_namespaces(targets: Targets) -> object:
    descriptor = os.open("/proc/1/ns/mnt", os.O_RDONLY)
    return done(libc.setns(descriptor, 0)) == 0


@attack(KERNEL, "count events (perf_event_open)", "landlock", may_fail_anyway=True)
def perf(targets: Targets) -> object:
    attributes = struct.pack("IIQQQQQ", 1, 64, 0, 0, 0, 0, 0x60).ljust(64, b"\0")
    return call("perf_event_open", ctypes.c_char_p(attributes), 0, -1, -1, 0)


@attack(KERNEL, "load a program into the kernel (bpf)", "landlock", may_fail_anyway=True)
def bpf(targets: Targets) -> object:
    return call("bpf", 0, ctypes.c_char_p(struct.pack("IIIII", 2, 4, 4, 1, 0).ljust(64, b"\0")), 64)


@attack(KERNEL, "handle page faults (userfaultfd)", "landlock", may_fail_anyway=True)
def userfaultfd(targets: Targets) -> object:
    return call("userfaultfd", 1)


@attack(KERNEL, "set up io_uring", "landlock", may_fail_anyway=True)
def io_uring(targets: Targets) -> object:
    return call("io_uring_setup", 4, ctypes.create_string_buffer(120))


@attack(KERNEL, "take what the machine has for all of asynchronous I/O", "landlock", may_fail_anyway=True)
def asynchronous_requests(targets: Targets) -> object:
    return call("io_setup", 1000, ctypes.byref(ctypes.c_ulong(0))) == 0


@attack(KERNEL, "use the kernel's keys", "landlock", may_fail_anyway=True)
def keys(targets: Targets) -> object:
    with suppress(OSError):
        return call("keyctl", 0, -3, 1)
    return call("add_key", ctypes.c_char_p(b"user"), ctypes.c_char_p(b"evil"), ctypes.c_char_p(b"x"), 1, -3)


@attack(KERNEL, "run a program that is no file (memfd_create)", "landlock")
def memory_program(targets: Targets) -> object:
    descriptor = os.memfd_create("evil", 0)
    os.write(descriptor, Path("/bin/true").read_bytes())
    return subprocess.run([f"/proc/self/fd/{descriptor}"], pass_fds=[descriptor], timeout=3).returncode == 0 or None


@attack(KERNEL, "switch off the randomness of addresses (personality)", "landlock")
def personality(targets: Targets) -> object:
    return done(libc.personality(ctypes.c_ulong(0x0040000))) >= 0


@attack(KERNEL, "read the kernel's log", "landlock", may_fail_anyway=True)
def kernel_log(targets: Targets) -> object:
    return done(libc.klogctl(3, ctypes.create_string_buffer(4096), 4096))


@attack(KERNEL, "load a module")
def load_module(targets: Targets) -> object:
    return call("init_module", ctypes.c_char_p(b"\x7fELF"), 4, ctypes.c_char_p(b"")) == 0


@attack(KERNEL, "set the clock")
def set_clock(targets: Targets) -> object:
    now = time.time()
    return call("clock_settime", 0, ctypes.c_char_p(struct.pack("qq", int(now), int(now % 1 * 1e9)))) == 0


@attack(KERNEL, "set the machine's name")
def set_name(targets: Targets) -> object:
    name = socket.gethostname().encode()
    return done(libc.sethostname(name, len(name))) == 0


@attack(KERNEL, "restart the machine, swap, or load another kernel")
def restart(targets: Targets) -> object:
    arguments = {"swapon": (ctypes.c_char_p(b"x"), 0), "kexec_load": (0, 0, None, 0)}
    for name, given in arguments.items():
        try:
            return call(name, *given)
        except OSError as error:
            if error.errno not in (1, 38):  # neither EPERM nor ENOSYS: it was let in
                return str(error)
    return None


# Privileges, and what is inherited

PRIVILEGES = "privileges"


@attack(PRIVILEGES, "become root")
def become_root(targets: Targets) -> object:
    for name in ("setuid", "setgid"):
        with suppress(OSError):
            return getattr(os, name)(0) or True
    return None


@attack(PRIVILEGES, "run a program with the set-user-id bit")
def set_user_id(targets: Targets) -> object:
    programs = [targets["set_user_id"]] if targets["set_user_id"] else []
    for program in programs:
        with suppress(OSError):
            who = subprocess.run([program, "-u"], capture_output=True, text=True, timeout=3).stdout.strip()
            return who == "0" or None
    return libc.prctl(39, 0, 0, 0, 0) != 1 or None  # no_new_privs


@attack(PRIVILEGES, "preload a library into such a program")
def preload(targets: Targets) -> object:
    variables = {**os.environ, "LD_PRELOAD": "./evil.so", "LD_LIBRARY_PATH": "."}
    for program in filter(None, [targets["set_user_id"]]):
        with suppress(OSError):
            who = subprocess.run([program, "-u"], capture_output=True, text=True, timeout=3, env=variables)
            return who.stdout.strip() == "0" or None
    return None


@attack(PRIVILEGES, "use sudo or su")
def sudo(targets: Targets) -> object:
    for argv in (["sudo", "-n", "true"], ["su", "-c", "true"]):
        with suppress(FileNotFoundError, PermissionError):
            if subprocess.run(argv, capture_output=True, timeout=3, stdin=subprocess.DEVNULL).returncode == 0:
                return argv
    return None


@attack(PRIVILEGES, "have a capability")
def capabilities(targets: Targets) -> object:
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    done(libc.capget(ctypes.byref(header), ctypes.byref(data)))
    return any(data) or None


@attack(PRIVILEGES, "raise its own limits")
def raise_limits(targets: Targets) -> object:
    for kind in (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC):
        with suppress(ValueError, OSError):
            resource.setrlimit(kind, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            return kind
    return None


@attack(PRIVILEGES, "lock memory")
def lock_memory(targets: Targets) -> object:
    area = mmap.mmap(-1, 2**20)
    return done(libc.mlock(ctypes.byref(ctypes.c_char.from_buffer(area)), 2**20)) == 0


@attack(PRIVILEGES, "find the secrets of the program's environment")
def environment(targets: Targets) -> object:
    found = [name for name, value in os.environ.items() if targets["environment_mark"] in value]
    return found + [name for name in os.environ if name.startswith("LD_")] or None


@attack(PRIVILEGES, "find a file the program has open")
def open_files(targets: Targets) -> object:
    found = []
    for descriptor in range(3, 256):
        with suppress(OSError):
            found.append((descriptor, stat.S_IFMT(os.fstat(descriptor).st_mode)))
    return [item for item in found if item[0] not in targets["own_files"]] or None


@attack(PRIVILEGES, "leave a core dump")
def core_dump(targets: Targets) -> object:
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CORE, (resource.getrlimit(resource.RLIMIT_CORE)[1],) * 2)
        os.kill(os.getpid(), signal.SIGQUIT)
    return os.WCOREDUMP(os.waitpid(child, 0)[1]) or None


# Tried last, each in a call of its own, and only where it is promised to be stopped: it would end the tests.

ALONE = {"kill_all": "os.kill(-1, signal.SIGKILL)", "kill_parent": "os.kill(os.getppid(), signal.SIGKILL)"}


@attack(PROCESSES, "kill every process of the user", "landlock", "process")
def kill_all(targets: Targets) -> object:
    return "not tried"


@attack(PROCESSES, "kill the sandbox's own process", "landlock", "process")
def kill_parent(targets: Targets) -> object:
    return "not tried"


def main() -> None:
    """Try everything, each in a process of its own, and print what became of it."""
    targets: Targets = json.loads(sys.argv[1])
    targets |= {"parent": os.getppid(), "own_files": []}
    report = {}
    for item in ATTACKS.values():
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            signal.alarm(5)
            os.write(writing, tried(item, targets | {"own_files": [writing]}).encode()[:4000])
            os._exit(0)
        os.close(writing)
        with open(reading, "rb") as pipe:
            report[item.name] = pipe.read().decode() or "denied: it was killed"
        os.waitpid(child, 0)
    print(json.dumps(report))


def tried(item: Attack, targets: Targets) -> str:
    try:
        got = item.run(targets)
    except BaseException as error:
        return f"denied: {type(error).__name__}: {error}"
    return "denied: nothing" if got is None else f"reached: {got!r}"[:300]


if __name__ == "__main__":
    main()
