"""Numbers of Linux system calls, and which of them confined code may not use.

From linux/arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h; the tests compare them with the
headers of the machine they run on. How the list is enforced is known to `seccomp`.
"""

from __future__ import annotations

from dataclasses import dataclass

HIGHEST = 469  # the last call this list has judged: a newer one does not exist for confined code

# name: (x86_64, aarch64); None where the architecture has no such call.
NUMBERS: dict[str, tuple[int | None, int | None]] = {
    # Sockets. One pair of connected ones can be had: `socketpair`.
    "socket": (41, 198),
    "socketpair": (53, 199),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
    # Other processes.
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "prlimit64": (302, 261),
    "setpriority": (141, 140),
    "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
    "ioprio_set": (251, 30),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "prctl": (157, 167),
    # Mounts and namespaces.
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "open_tree_attr": (467, 467),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "statmount": (457, 457),
    "listmount": (458, 458),
    "unshare": (272, 97),
    "setns": (308, 268),
    "clone": (56, 220),
    "clone3": (435, 435),
    # Keys, programs in the kernel, counters, memory somebody else handles.
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    # Memory and messages no limit counts; programs without a file.
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "semget": (64, 190),
    "semop": (65, 193),
    "semtimedop": (220, 192),
    "semctl": (66, 191),
    "msgget": (68, 186),
    "msgsnd": (69, 189),
    "msgrcv": (70, 188),
    "msgctl": (71, 187),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    # Watching files, opening them without a path.
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
    "inotify_add_watch": (254, 27),
    "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "lookup_dcookie": (212, 18),
    # The machine.
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "syslog": (103, 116),
    "vhangup": (153, 58),
    "personality": (135, 92),
    "ioctl": (16, 29),
    "uselib": (134, None),
    "lsm_set_self_attr": (460, 460),
    # Disk that is taken in no time, and by `keep size` past every limit of a file's.
    "fallocate": (285, 47),
    # Of these requests the machine has so many for all.
    "io_setup": (206, 0),
    # What Landlock does not know: modes, owners, attributes and times; of an open file too, which reading may open.
    "chmod": (90, None),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "fchmod": (91, 52),
    "chown": (92, None),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "fchown": (93, 55),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "setxattrat": (463, 463),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "removexattrat": (466, 466),
    "file_setattr": (469, 469),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
}
ARCHITECTURES = ("x86_64", "aarch64")


def number(name: str, architecture: str) -> int | None:
    """Return the number of a call; None where the architecture has none."""
    return NUMBERS[name][ARCHITECTURES.index(architecture)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Test:
    """Whether the masked lower (or upper) half of an argument is one of these values, or is none of them."""

    argument: int
    values: tuple[int, ...]
    mask: int = 0xFFFFFFFF
    is_one_of: bool = True
    is_upper: bool = False


_ITSELF = Test(argument=0, values=(0,))  # a process id of 0
_NAMESPACES = 0x7E020000  # CLONE_NEW* of linux/sched.h
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C  # typing into a terminal
_PR_SET_DUMPABLE, _PR_SET_MM, _PR_SET_PTRACER = 4, 35, 0x59616D61

# Allowed if every test holds; every other call in NUMBERS is refused whatever its arguments.
CONDITIONS: dict[str, tuple[Test, ...]] = {
    # A pair of datagram sockets can send to any other, so only streams and AF_UNIX.
    "socketpair": (Test(argument=0, values=(1,)), Test(argument=1, values=(1,), mask=0xF)),
    "clone": (Test(argument=0, values=(0,), mask=_NAMESPACES),),
    "personality": (Test(argument=0, values=(0, 0xFFFFFFFF)),),
    "ioctl": (Test(argument=1, values=(_TIOCSTI, _TIOCLINUX), is_one_of=False),),
    # A process that is not dumpable could hide from the limits on memory and disk.
    "prctl": (Test(argument=0, values=(_PR_SET_DUMPABLE, _PR_SET_MM, _PR_SET_PTRACER), is_one_of=False),),
    "prlimit64": (_ITSELF,),
    "sched_setaffinity": (_ITSELF,),
    "sched_setscheduler": (_ITSELF,),
    "sched_setparam": (_ITSELF,),
    "sched_setattr": (_ITSELF,),
    "setpriority": (_ITSELF, Test(argument=1, values=(0,))),  # PRIO_PROCESS
    "ioprio_set": (Test(argument=0, values=(1,)), Test(argument=1, values=(0,))),  # IOPRIO_WHO_PROCESS
    "utimensat": (Test(argument=1, values=(0,)), Test(argument=1, values=(0,), is_upper=True)),  # of an open file
}
METADATA = tuple(name for name in list(NUMBERS)[list(NUMBERS).index("chmod") :])
"""Calls that are allowed where no file of others can be reached by them."""
