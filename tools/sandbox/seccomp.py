"""The seccomp filter: a program of classic BPF that refuses the system calls `syscalls` lists.

It is a list of what is refused: what is not in it, and not newer than it, is allowed. It sees numbers, never what a
pointer leads to; files are Landlock's business.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from errno import ENOSYS, EOPNOTSUPP, EPERM
from functools import cache

from agentgrpo.tools.sandbox.syscalls import CONDITIONS, HIGHEST, METADATA, NUMBERS, Test, number

AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # AUDIT_ARCH_* of linux/audit.h
X32 = 0x40000000  # the other set of numbers an x86_64 kernel may take

# linux/bpf_common.h, linux/seccomp.h
LOAD, AND, JUMP, EQUAL, GREATER, AT_LEAST, RETURN = 0x20, 0x54, 0x05, 0x15, 0x25, 0x35, 0x06
ALLOW, KILL_PROCESS, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
# struct seccomp_data: number, architecture, instruction pointer, six arguments of 8 bytes (little-endian here)
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, operand
_REFUSE: Instruction = (RETURN, 0, 0, ERRNO | EPERM)
_UNKNOWN: Instruction = (RETURN, 0, 0, ERRNO | ENOSYS)  # programs know what to do without
_UNSUPPORTED: Instruction = (RETURN, 0, 0, ERRNO | EOPNOTSUPP)  # as some file systems say: programs write instead


@cache
def program(architecture: str, *, keeps_metadata: bool) -> bytes:
    """Return the filter's instructions.

    Args:
        architecture: A key of AUDIT.
        keeps_metadata: Refuse changes of modes, owners, attributes and times by path too.
    """
    return b"".join(struct.pack("<HBBI", *line) for line in _lines(architecture, keeps_metadata))


def _lines(architecture: str, keeps_metadata: bool) -> list[Instruction]:
    lines: list[Instruction] = [
        (LOAD, 0, 0, _ARCHITECTURE),
        (EQUAL, 1, 0, AUDIT[architecture]),
        (RETURN, 0, 0, KILL_PROCESS),
        (LOAD, 0, 0, _NUMBER),
        (AT_LEAST, 0, 1, X32),
        _REFUSE,
        (GREATER, 0, 1, HIGHEST),
        _UNKNOWN,
    ]
    for name in NUMBERS:
        code = number(name, architecture)
        if code is not None and (keeps_metadata or name not in METADATA):
            body = _body(name)
            lines += [(EQUAL, 0, len(body), code), *body]
    return [*lines, (RETURN, 0, 0, ALLOW)]


def _body(name: str) -> list[Instruction]:
    """Return what is done with a call, once it is sure that it is this one."""
    if name == "clone3":  # its flags are behind a pointer; without it, programs use clone
        return [_UNKNOWN]
    if name == "fallocate":
        return [_UNSUPPORTED]
    tests = CONDITIONS.get(name)
    if tests is None:
        return [_REFUSE]
    return [*(line for test in tests for line in _checked(test)), (RETURN, 0, 0, ALLOW)]


def _checked(test: Test) -> Sequence[Instruction]:
    """Return lines that refuse unless the test holds, and otherwise go on after themselves."""
    loaded = [
        (LOAD, 0, 0, _ARGUMENTS + 8 * test.argument + 4 * test.is_upper),
        (AND, 0, 0, test.mask),
    ]
    count = len(test.values)
    # Each match jumps over the other comparisons and one line more.
    compared = [(EQUAL, count - index, 0, value) for index, value in enumerate(test.values)]
    last = [_REFUSE] if test.is_one_of else [(JUMP, 0, 0, 1), _REFUSE]
    return [*loaded, *compared, *last]
