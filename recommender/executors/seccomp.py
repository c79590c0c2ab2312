"""A seccomp filter: the system calls that a jailed process may not make.

The filter is a plain list of BPF instructions made here, so nothing has to be installed for it. It
names what is refused; whatever a probe needs of files is left to Landlock.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
from collections.abc import Mapping
from dataclasses import dataclass

# Instructions of classic BPF, as the kernel's filter.h has them.
LOAD, AND, JUMP_EQUAL, JUMP_NOT_BELOW, JUMP_ANY_BIT, RETURN = 0x20, 0x54, 0x15, 0x35, 0x45, 0x06
ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16
# From here on, numbers on x86-64 are of the x32 interface, which would go round the list.
X32 = 0x40000000

CLONE_THREAD = 0x00010000
# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET.
CLONE_NAMESPACES = 0x7E020000

# Calls that differ between machines: x86-64, then those that count as asm-generic does.
# -1 where a machine has none.
_NUMBERS: dict[str, tuple[int, int]] = {
    # Other processes and other programs.
    "fork": (57, -1),
    "vfork": (58, -1),
    "execve": (59, 221),
    "execveat": (322, 281),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    # The network, and whatever else speaks to somebody.
    "socket": (41, 198),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
    "sendto": (44, 206),
    "sendmsg": (46, 211),
    "sendmmsg": (307, 269),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    # Memory and files that no limit counts.
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    # Files by other ways than their path, and properties that Landlock does not guard.
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "truncate": (76, 45),
    "chmod": (90, -1),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, -1),
    "lchown": (94, -1),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "utime": (132, -1),
    "utimes": (235, -1),
    "futimesat": (261, -1),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "setxattrat": (463, 463),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "removexattrat": (466, 466),
    "inotify_init": (253, -1),
    "inotify_init1": (294, 26),
    "fanotify_init": (300, 262),
    # Parts of the kernel that have been ways out.
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "personality": (135, 92),
    "modify_ldt": (154, -1),
    # Mounts, namespaces and the machine.
    "unshare": (272, 97),
    "setns": (308, 268),
    "chroot": (161, 51),
    "pivot_root": (155, 41),
    "mount": (165, 40),
    "umount2": (166, 39),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "iopl": (172, -1),
    "ioperm": (173, -1),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "syslog": (103, 116),
}
# Calls whose arguments decide.
_CLONE, _PRCTL, _FCNTL, _IOCTL = (56, 220), (157, 167), (72, 25), (16, 29)
# Calls whose arguments no filter can see; without them, programs take clone and openat.
_CLONE3, _OPENAT2 = (435, 435), (437, 437)
# Call, and position of its flags.
_OPENS: dict[str, tuple[tuple[int, int], int]] = {"open": ((2, -1), 1), "openat": ((257, 56), 2)}
# Emptying a file that is opened for reading, or for neither: until its third version, Landlock
# takes the first for reading and the second for nothing.
_TRUNCATE, _ACCESS_MODE = 0o1000, 3
_TO_ITSELF: dict[str, tuple[tuple[int, int], bool]] = {
    # Whether 0 means the caller as well.
    "kill": ((62, 129), False),
    "tgkill": ((234, 131), False),
    "prlimit64": ((302, 261), True),
    "sched_setaffinity": ((203, 122), True),
    "sched_setparam": ((142, 118), True),
    "sched_setscheduler": ((144, 119), True),
    "sched_setattr": ((314, 274), True),
}
# Call, position of the argument, values that are refused.
_REFUSED_VALUES: tuple[tuple[tuple[int, int], int, tuple[int, ...]], ...] = (
    # PR_SET_PDEATHSIG and PR_SET_DUMPABLE: what the jail has set stays.
    (_PRCTL, 0, (1, 4)),
    # F_SETOWN, F_SETSIG, F_SETOWN_EX, F_SETLEASE and F_NOTIFY: signals to others, and leases.
    (_FCNTL, 1, (8, 10, 15, 1024, 1026)),
    # TIOCSTI and TIOCLINUX type into a terminal; FIOSETOWN, SIOCSPGRP and FIOASYNC send signals.
    (_IOCTL, 1, (0x5412, 0x541C, 0x8901, 0x8902, 0x5452)),
)


@dataclass(frozen=True)
class Machine:
    """A kind of processor as seccomp sees it.

    Attributes:
        audit: Its number in the kernel's audit.h.
        column: Its place in the tables of numbers.
    """

    audit: int
    column: int


MACHINES: Mapping[str, Machine] = {
    "x86_64": Machine(0xC000003E, 0),
    "aarch64": Machine(0xC00000B7, 1),
}

Instruction = tuple[int, int, int, int]


def numbers(machine: Machine) -> dict[str, int]:
    """The calls that are refused whatever their arguments are, by name."""
    found = {name: both[machine.column] for name, both in _NUMBERS.items()}
    return {name: number for name, number in found.items() if number >= 0}


def program(machine: Machine, pid: int) -> list[Instruction]:
    """The filter for one process.

    Args:
        machine: What it runs on.
        pid: The process: it may send signals to itself. It cannot fork, so the number stays right.

    Returns:
        Instructions as (code, jump if true, jump if false, operand).
    """
    column = machine.column
    refuse = _give(ERRNO | errno.EPERM)
    made = [
        _load(ARCHITECTURE),
        *_unless_equal(machine.audit, [_give(KILL)]),
        _load(NUMBER),
        (JUMP_NOT_BELOW, 0, 1, X32),
        refuse,
    ]
    for number in numbers(machine).values():
        made += _when_equal(number, [refuse])
    for hidden in (_CLONE3, _OPENAT2):
        made += _when_equal(hidden[column], [_give(ERRNO | errno.ENOSYS)])
    threads_only = [
        _load(ARGUMENTS),
        (JUMP_ANY_BIT, 0, 2, CLONE_THREAD),
        (JUMP_ANY_BIT, 1, 0, CLONE_NAMESPACES),
        _give(ALLOW),
        refuse,
    ]
    made += _when_equal(_CLONE[column], threads_only)
    for call, position in _OPENS.values():
        empties = [
            step for mode in (0, _ACCESS_MODE) for step in _when_equal(_TRUNCATE | mode, [refuse])
        ]
        flags = [_load(ARGUMENTS + 8 * position), (AND, 0, 0, _TRUNCATE | _ACCESS_MODE)]
        if call[column] >= 0:
            made += _when_equal(call[column], [*flags, *empties, _give(ALLOW)])
    for call, zero_is_itself in _TO_ITSELF.values():
        itself = [pid, 0] if zero_is_itself else [pid]
        allowed = [step for value in itself for step in _when_equal(value, [_give(ALLOW)])]
        made += _when_equal(call[column], [_load(ARGUMENTS), *allowed, refuse])
    for call, position, values in _REFUSED_VALUES:
        refused = [step for value in values for step in _when_equal(value, [refuse])]
        look = [_load(ARGUMENTS + 8 * position), *refused, _give(ALLOW)]
        made += _when_equal(call[column], look)
    return [*made, _give(ALLOW)]


def _load(offset: int) -> Instruction:
    """Of an argument, these are the lower 32 bits, which is what the kernel reads of an int."""
    return LOAD, 0, 0, offset


def _give(what: int) -> Instruction:
    return RETURN, 0, 0, what


def _when_equal(value: int, then: list[Instruction]) -> list[Instruction]:
    return [(JUMP_EQUAL, 0, len(then), value), *then]


def _unless_equal(value: int, then: list[Instruction]) -> list[Instruction]:
    return [(JUMP_EQUAL, len(then), 0, value), *then]


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def install(libc: ctypes.CDLL, pid: int) -> None:
    """Put this thread and all that it will start under the filter; needs no_new_privs.

    Args:
        libc: The C library, loaded with `use_errno`.
        pid: This process.

    Raises:
        OSError: The kernel refuses, or this kind of processor is not known.
    """
    machine = MACHINES.get(platform.machine())
    if machine is None:
        raise OSError(
            errno.ENOSYS,
            f"there is no system call filter for {platform.machine()}, only for "
            f"{' and '.join(MACHINES)}",
        )
    steps = program(machine, pid)
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    made = _Program(len(steps), ctypes.cast(code, ctypes.c_void_p))
    set_seccomp, mode_filter = 22, 2
    if libc.prctl(set_seccomp, ctypes.c_ulong(mode_filter), ctypes.byref(made), 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")
