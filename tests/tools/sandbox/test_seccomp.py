from __future__ import annotations

import re
import struct
from errno import ENOSYS, EOPNOTSUPP, EPERM
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgrpo.tools.sandbox import seccomp
from agentgrpo.tools.sandbox.syscalls import ARCHITECTURES, CONDITIONS, HIGHEST, METADATA, NUMBERS, number

HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}
REFUSED = seccomp.ERRNO | EPERM
ABSENT = seccomp.ERRNO | ENOSYS
OTHERWISE = {"clone3": ABSENT, "fallocate": seccomp.ERRNO | EOPNOTSUPP}  # of which programs know what to do without
COMMON = {
    "x86_64": {"read": 0, "open": 2, "mmap": 9, "execve": 59, "fork": 57, "wait4": 61, "kill": 62, "futex": 202},
    "aarch64": {"read": 63, "openat": 56, "mmap": 222, "execve": 221, "wait4": 260, "kill": 129, "futex": 98},
}


def decide(program: bytes, code: int, arguments: tuple[int, ...] = (), *, audit: int) -> int:
    """Run a filter as the kernel does; return its verdict."""
    values = [value % 2**64 for value in (*arguments, *[0] * 6)][:6]
    data = struct.pack("<IIQ6Q", code, audit, 0, *values)
    lines = [struct.unpack_from("<HBBI", program, at) for at in range(0, len(program), 8)]
    at = accumulator = 0
    while True:
        operation, if_true, if_false, operand = lines[at]
        at += 1
        match operation:
            case seccomp.LOAD:
                accumulator = struct.unpack_from("<I", data, operand)[0]
            case seccomp.AND:
                accumulator &= operand
            case seccomp.JUMP:
                at += operand
            case seccomp.RETURN:
                return int(operand)
            case seccomp.EQUAL | seccomp.GREATER | seccomp.AT_LEAST:
                holds = {
                    seccomp.EQUAL: accumulator == operand,
                    seccomp.GREATER: accumulator > operand,
                    seccomp.AT_LEAST: accumulator >= operand,
                }[operation]
                at += if_true if holds else if_false


def verdict(architecture: str, name_or_code: str | int, *arguments: int, keeps_metadata: bool = True) -> int:
    code = number(name_or_code, architecture) if isinstance(name_or_code, str) else name_or_code
    assert code is not None
    program = seccomp.program(architecture, keeps_metadata=keeps_metadata)
    return decide(program, code, arguments, audit=seccomp.AUDIT[architecture])


each_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)


@each_architecture
def test_numbers_are_those_of_the_headers(architecture: str) -> None:
    header = HEADERS[architecture]
    if not header.exists():
        pytest.skip(f"no {header}")
    found = {
        name: int(code)
        for name, code in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)$", header.read_text(), re.MULTILINE)
    }
    ours = {name: number(name, architecture) for name in NUMBERS}
    absent = {name for name, code in ours.items() if code is None}
    # One that is newer than the header is not in it.
    known = {name: code for name, code in ours.items() if code is not None and code <= max(found.values())}
    assert {name: (code, found.get(name)) for name, code in known.items() if found.get(name) != code} == {}
    assert absent & found.keys() == set()


@each_architecture
def test_every_listed_call_without_conditions_is_refused(architecture: str) -> None:
    for name in NUMBERS.keys() - CONDITIONS.keys():
        if number(name, architecture) is not None:
            assert verdict(architecture, name) == OTHERWISE.get(name, REFUSED), name


@each_architecture
def test_what_programs_live_by_is_allowed(architecture: str) -> None:
    for name, code in COMMON[architecture].items():
        assert verdict(architecture, code) == seccomp.ALLOW, name


@each_architecture
def test_calls_of_kernels_to_come_do_not_exist(architecture: str) -> None:
    assert verdict(architecture, HIGHEST + 1) == verdict(architecture, 0x3FFFFFFF) == ABSENT


@each_architecture
def test_another_architecture_or_set_of_numbers_is_no_way_around(architecture: str) -> None:
    program = seccomp.program(architecture, keeps_metadata=True)
    for audit in (0x40000003, 0x40000028, 0, seccomp.AUDIT[architecture] ^ 1):
        assert decide(program, 0, audit=audit) == seccomp.KILL_PROCESS
    for code in (0, 41, 0x3FFFFFFF):
        assert decide(program, seccomp.X32 | code, audit=seccomp.AUDIT[architecture]) == REFUSED


@each_architecture
def test_a_pair_of_sockets_is_of_unix_streams_only(architecture: str) -> None:
    for domain, kind in product(range(50), range(16)):
        allowed = (domain, kind) == (1, 1)
        for flags in (0, 0o4000, 0o2000000):
            assert (verdict(architecture, "socketpair", domain, kind | flags) == seccomp.ALLOW) == allowed


@each_architecture
@given(flags=st.integers(0, 2**64 - 1))
def test_clone_makes_no_namespace(architecture: str, flags: int) -> None:
    spaces = [0x20000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000]
    wanted = REFUSED if any(flags & space for space in spaces) else seccomp.ALLOW
    assert verdict(architecture, "clone", flags) == wanted


@each_architecture
@given(pid=st.integers(-(2**31), 2**31 - 1))
def test_limits_and_priorities_are_changed_of_oneself_only(architecture: str, pid: int) -> None:
    wanted = seccomp.ALLOW if pid == 0 else REFUSED
    for name in ("prlimit64", "sched_setaffinity", "sched_setscheduler", "sched_setparam", "sched_setattr"):
        assert verdict(architecture, name, pid) == wanted
    assert verdict(architecture, "setpriority", 0, pid) == wanted
    assert verdict(architecture, "setpriority", 1, pid) == verdict(architecture, "setpriority", 2, pid) == REFUSED
    assert verdict(architecture, "ioprio_set", 1, pid) == wanted


@each_architecture
def test_the_upper_half_of_an_argument_hides_nothing(architecture: str) -> None:
    # The kernel takes ints from the lower half, so that is what has to be judged.
    assert verdict(architecture, "ioctl", 0, 2**32 + 0x5412) == REFUSED
    assert verdict(architecture, "ioctl", 0, 0x5413) == seccomp.ALLOW
    assert verdict(architecture, "prctl", 2**32 + 4) == REFUSED
    assert verdict(architecture, "prctl", 15) == seccomp.ALLOW
    # A path is an address: one whose lower half is zero is still one.
    assert verdict(architecture, "utimensat", 3, 0) == seccomp.ALLOW
    assert verdict(architecture, "utimensat", 3, 2**32) == verdict(architecture, "utimensat", 3, 1) == REFUSED


@each_architecture
def test_modes_and_times_can_be_changed_where_no_file_of_others_is_in_reach(architecture: str) -> None:
    assert len(METADATA) == 21
    for name in METADATA:
        if number(name, architecture) is not None:
            assert verdict(architecture, name, 1, 1) == REFUSED, name
            assert verdict(architecture, name, 1, 1, keeps_metadata=False) == seccomp.ALLOW, name


@each_architecture
def test_jumps_stay_inside_the_program(architecture: str) -> None:
    program = seccomp.program(architecture, keeps_metadata=True)
    count = len(program) // 8
    assert count < 4096  # BPF_MAXINSNS
    for at in range(count):
        operation, if_true, if_false, operand = struct.unpack_from("<HBBI", program, 8 * at)
        if operation in (seccomp.EQUAL, seccomp.GREATER, seccomp.AT_LEAST):
            assert at + 1 + max(if_true, if_false) < count
        if operation == seccomp.JUMP:
            assert at + 1 + operand < count
    assert struct.unpack_from("<HBBI", program, 8 * (count - 1))[0] == seccomp.RETURN
