"""The jail of a probe's process: what it may read, write, call and use up, from before it imports.

    python -m recommender.executors.jail FOLDER JOURNAL MEMORY_MB MODULE ARGUMENT...

runs `MODULE.main()` where FOLDER's `given` can be read, its `work` and the folder JOURNAL can be
written, and beside them only the interpreter and its packages can be read. It needs Linux, no root
and no package.
"""

from __future__ import annotations

import ctypes
import errno
import importlib
import importlib.util
import os
import resource
import signal
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from recommender.executors import seccomp

# Beside the memory that counts, frameworks reserve address space: up to 2.6 GB were seen.
RESERVED_MB = 4096
LARGEST_FILE = 64 * 2**20
MOST_OPEN_FILES = 256
# Counts all threads of a user, so this is what a machine can bear, not what a probe needs.
MOST_THREADS = 4096

GIVEN, WORK, JOURNAL = "given", "work", "journal"
# What frameworks read of the system: libraries, the clock's zone, processors and memory.
SYSTEM = (
    "/usr",
    "/lib",
    "/lib64",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/dev/urandom",
    "/dev/random",
    "/dev/zero",
    "/proc/self",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/sys/vm/overcommit_memory",
    "/sys/devices/system",
)
# A driver is spoken to through these; the jail does not hold what happens in a driver.
ACCELERATORS = ("/dev/nvidia*", "/dev/kfd", "/dev/dri/renderD*")
ACCELERATOR_FACTS = ("/proc/driver/nvidia", "/sys/module/nvidia", "/sys/bus/pci", "/sys/class/kfd")
OUR_PACKAGES = ("recommender", "keras_gradopt")


@dataclass(frozen=True)
class Jail:
    """What a process may use.

    Attributes:
        readable: Files and folders, with all that lies in them.
        writable: The same, to read and to write.
        devices: Device files, to read, write and control.
    """

    readable: tuple[Path, ...]
    writable: tuple[Path, ...]
    devices: tuple[Path, ...] = ()


def around(folder: Path, journal: Path) -> Jail:
    """The jail of a probe.

    Args:
        folder: Holds `given` and `work`; nothing else in it can be read.
        journal: Stays writable wherever it is moved to.
    """
    found = accelerators()
    facts = ACCELERATOR_FACTS if found else ()
    return Jail(
        (*interpreter(), *map(Path, SYSTEM), *map(Path, facts), folder / GIVEN),
        (folder / WORK, journal, Path(os.devnull)),
        found,
    )


def accelerators() -> tuple[Path, ...]:
    """The device files of accelerators on this machine."""
    root = Path("/")
    return tuple(sorted(p for name in ACCELERATORS for p in root.glob(name.removeprefix("/"))))


def interpreter() -> tuple[Path, ...]:
    """Where Python and its packages lie."""
    libraries = os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    names = [sys.prefix, sys.base_prefix, *sys.path, *libraries]
    for package in OUR_PACKAGES:  # an editable install is on no path
        spec = importlib.util.find_spec(package)
        names += (spec and spec.submodule_search_locations) or []
    return tuple(dict.fromkeys(Path(name) for name in names if Path(name).is_absolute()))


def exposed(folder: Path) -> Path | None:
    """What a jailed process may read that holds this folder, if anything does."""
    roots = (*interpreter(), *map(Path, SYSTEM))
    inside = folder.resolve()
    return next((root for root in roots if inside.is_relative_to(root.resolve())), None)


def limit(memory_mb: int) -> None:
    """Set what this process may use up; its starter watches time and resident memory as well.

    Args:
        memory_mb: Resident memory that it may have.
    """
    limits = {
        resource.RLIMIT_FSIZE: LARGEST_FILE,
        resource.RLIMIT_NOFILE: MOST_OPEN_FILES,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NPROC: MOST_THREADS,
    }
    if not accelerators():  # their drivers reserve as much as there is
        limits[resource.RLIMIT_AS] = (memory_mb + RESERVED_MB) * 2**20
    for what, most in limits.items():
        _, hard = resource.getrlimit(what)
        allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (allowed, allowed))
    os.umask(0o077)


def enter(jail: Jail) -> None:
    """Put this process into a jail, for good.

    It ends with the thread that has started it.

    Args:
        jail: What it may use.

    Raises:
        OSError: The system cannot hold it: it must not go on.
    """
    if sys.platform != "linux":
        raise OSError(errno.ENOSYS, f"there is no jail for {sys.platform}, only for Linux")
    if len(os.listdir("/proc/self/task")) > 1:  # noqa: PTH208 - names are all that is asked for
        raise OSError(errno.EBUSY, "a thread that is there already would stay outside of the jail")
    # Where the machine runs out of memory, this process is to go first.
    Path("/proc/self/oom_score_adj").write_text("1000", "ascii")
    libc = ctypes.CDLL(None, use_errno=True)
    _drop_capabilities(libc)
    no_new_privileges, end_with_parent, dumpable = 38, 1, 4
    _prctl(libc, no_new_privileges, 1)
    _prctl(libc, end_with_parent, signal.SIGKILL)
    _prctl(libc, dumpable, 0)
    _restrict_paths(libc, jail)
    seccomp.install(libc, os.getpid())


def _prctl(libc: ctypes.CDLL, option: int, value: int) -> None:
    if libc.prctl(option, *(ctypes.c_ulong(number) for number in (value, 0, 0, 0))):
        raise OSError(ctypes.get_errno(), f"prctl({option})")


def _drop_capabilities(libc: ctypes.CDLL) -> None:
    """Root without its powers is a user who owns root's files."""
    version = 0x20080522
    header = (ctypes.c_uint32 * 2)(version, 0)
    if libc.capset(header, (ctypes.c_uint32 * 6)()):
        raise OSError(ctypes.get_errno(), "capset")


# Landlock's rights on files, in the order of their bits, and the version that brought each.
_RIGHTS = {
    "execute": 1,
    "write_file": 1,
    "read_file": 1,
    "read_dir": 1,
    "remove_dir": 1,
    "remove_file": 1,
    "make_char": 1,
    "make_dir": 1,
    "make_reg": 1,
    "make_sock": 1,
    "make_fifo": 1,
    "make_block": 1,
    "make_sym": 1,
    "refer": 2,
    "truncate": 3,
    "ioctl_dev": 5,
}
_OF_FILES = frozenset({"execute", "write_file", "read_file", "truncate", "ioctl_dev"})
_READ = frozenset({"read_file", "read_dir"})
# Plain files and folders only: who looks through them later finds no link and no pipe.
_WRITE = _READ | {"write_file", "truncate", "remove_dir", "remove_file", "make_dir", "make_reg"}
_CONTROL = _OF_FILES - {"execute"}
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
# Versions that brought the network, and signals and abstract sockets.
_NETWORK, _SCOPES = 4, 6


class _Ruleset(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("files", "network", "scopes"))


class _Rule(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("below", ctypes.c_int32))


def landlock_version(libc: ctypes.CDLL) -> int:
    """The version of Landlock's interface; 0 where the system has none."""
    ask_version = 1
    return max(0, libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ask_version))


def _restrict_paths(libc: ctypes.CDLL, jail: Jail) -> None:
    version = landlock_version(libc)
    if not version:
        raise OSError(errno.ENOSYS, "this system has no Landlock, or it is switched off")
    known = frozenset(name for name, since in _RIGHTS.items() if since <= version)
    ruleset = _Ruleset(
        _bits(known), 0b11 if version >= _NETWORK else 0, 0b11 if version >= _SCOPES else 0
    )
    size = 8 * (1 + (version >= _NETWORK) + (version >= _SCOPES))
    rules = libc.syscall(_CREATE_RULESET, ctypes.byref(ruleset), ctypes.c_size_t(size), 0)
    if rules < 0:
        raise OSError(ctypes.get_errno(), "landlock_create_ruleset")
    try:
        for paths, rights in (
            (jail.readable, _READ),
            (jail.writable, _WRITE),
            (jail.devices, _CONTROL),
        ):
            _allow(libc, rules, paths, rights & known)
        if libc.syscall(_RESTRICT_SELF, rules, 0):
            raise OSError(ctypes.get_errno(), "landlock_restrict_self")
    finally:
        os.close(rules)


def _allow(libc: ctypes.CDLL, rules: int, paths: Iterable[Path], rights: frozenset[str]) -> None:
    beneath = 1
    for path in paths:
        try:
            opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:  # not every system has all of them
            continue
        try:
            allowed = rights if path.is_dir() else rights & _OF_FILES
            rule = _Rule(_bits(allowed), opened)
            if libc.syscall(_ADD_RULE, rules, beneath, ctypes.byref(rule), 0):
                raise OSError(ctypes.get_errno(), "landlock_add_rule", str(path))
        finally:
            os.close(opened)


def _bits(rights: frozenset[str]) -> int:
    return sum(1 << bit for bit, name in enumerate(_RIGHTS) if name in rights)


def main() -> None:
    """Enter, and run the module; `-` for the folders sets the limits alone."""
    folder, journal, memory_mb, module, *arguments = sys.argv[1:]
    limit(int(memory_mb))
    if folder != "-":
        enter(around(Path(folder), Path(journal)))
    sys.argv = [module, *arguments]
    importlib.import_module(module).main()


if __name__ == "__main__":
    main()
