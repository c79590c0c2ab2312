"""A program in the place of a probe that tries to get out, and to take more than it may.

Run by LocalProbe like a probe; it does what the specification's model names.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import mmap
import os
import platform
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recommender.executors import seccomp

Plain = dict[str, Any]


class Prisoner:
    """Has the pipe, and what the specification says."""

    def __init__(self, pipe: int, asked: Plain) -> None:
        self.pipe = pipe
        self.spec = asked["spec"]
        self.journal = asked["journal"]

    def send(self, kind: str, **fields: Any) -> None:
        os.write(self.pipe, json.dumps({"kind": kind, **fields}).encode() + b"\n")

    def end(self, result: Plain) -> None:
        usage = {"cpu_seconds": 0.0, "peak_memory_bytes": 0}
        self.send("result", result=result, usage=usage)

    def tries(self) -> None:
        """Each way out, and what the system says to it."""
        outside = Path(self.spec["data"]["outside"])
        starter = int(self.spec["data"]["starter"])
        given = Path(self.spec["data"]["path"])
        found = {}
        for name, attempt in (
            paths(outside, given, starter) | processes(starter) | sockets() | calls()
        ).items():
            try:
                attempt()
                found[name] = "done"
            except OSError as error:
                found[name] = errno.errorcode.get(error.errno or 0, str(error))
            except (ValueError, RuntimeError) as error:
                found[name] = type(error).__name__
        self.end(found)

    def looks(self) -> None:
        """What it is given."""
        names = list(Path("/proc/self/fd").iterdir())
        thread = threading.Thread(target=time.sleep, args=(0,))
        thread.start()
        thread.join()
        self.end(
            {
                "environment": dict(os.environ),
                "initial": Path("/proc/self/environ").read_text("utf-8"),
                "arguments": Path("/proc/self/cmdline").read_text("utf-8"),
                "open": len(names) - 1,  # one is open to list them
                "data": Path(self.spec["data"]["path"]).read_text("ascii"),
                "core": resource.getrlimit(resource.RLIMIT_CORE),
                "files": resource.getrlimit(resource.RLIMIT_NOFILE),
                "umask": os.umask(0),
                "folder": str(Path.cwd()),
            }
        )

    def writes(self) -> None:
        """Puts into its journal what it finds there, and more."""
        folder = Path(self.journal)
        before = sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))
        (folder / "states").mkdir(exist_ok=True)
        part = folder / "states" / "piece.part"
        part.write_text("written", "ascii")
        part.replace(folder / "states" / "piece")
        self.end({"before": before})

    def bombs(self) -> None:
        """Threads without end; other processes are refused."""
        try:
            os.fork()
        except PermissionError:
            while True:
                threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()

    def many_files(self) -> None:
        for number in range(100_000):
            Path(f"file-{number}").touch()
        time.sleep(60)

    def large_files(self) -> None:
        block = bytes(2**20)
        for number in range(10_000):
            with Path(f"file-{number}").open("wb") as file:
                file.writelines([block] * 60)
        time.sleep(60)

    def deep_folders(self) -> None:
        with contextlib.suppress(OSError):
            for _ in range(3000):
                Path("d").mkdir()
                os.chdir("d")
        Path("closed").mkdir(0)
        time.sleep(60)

    def prints(self) -> None:
        while True:
            os.write(1, bytes(2**20))

    def closes(self) -> None:
        os.close(self.pipe)
        time.sleep(60)

    def long_line(self) -> None:
        os.write(self.pipe, b'{"kind": "said", "text": "')
        for _ in range(1024):
            os.write(self.pipe, b"a" * 2**20)

    def many_lines(self) -> None:
        while True:
            self.send("spent", fraction=0.5)

    def lies(self) -> None:
        self.send("planned", trials=[])
        time.sleep(60)

    def hoards(self) -> None:
        held = []
        while True:
            held.append(mmap.mmap(-1, 2**28))
            held[-1].write(bytes(2**28))

    def spins(self) -> None:
        while True:
            pass


def paths(outside: Path, given: Path, starter: int) -> dict[str, Callable[[], object]]:
    """Files that are not its own."""
    return {
        "read users": Path("/etc/passwd").read_text,
        "read ledger": (outside / "ledger.sqlite3").read_bytes,
        "read blob": (outside / "blobs" / "other").read_bytes,
        "read other cell": (outside / "scratch" / "probe-other" / "work" / "x").read_bytes,
        "read other journal": (outside / "scratch" / "journal" / "other" / "x").read_bytes,
        "list outside": lambda: list(outside.iterdir()),
        "read starter's environment": Path(f"/proc/{starter}/environ").read_bytes,
        "read starter's command": Path(f"/proc/{starter}/cmdline").read_bytes,
        "read starter's memory": Path(f"/proc/{starter}/mem").open,
        "write ledger": lambda: (outside / "ledger.sqlite3").open("ab"),
        "truncate ledger": lambda: os.truncate(outside / "ledger.sqlite3", 0),
        "remove ledger": (outside / "ledger.sqlite3").unlink,
        "write given": lambda: given.write_bytes(b"other"),
        "empty given": lambda: os.open(given, os.O_RDONLY | os.O_TRUNC),
        "empty ledger": lambda: os.open(outside / "ledger.sqlite3", 3 | os.O_TRUNC),
        "empty own": lambda: Path("own").open("wb").close(),
        "remove given": given.unlink,
        "chmod given": lambda: given.chmod(0),
        "chmod ledger": lambda: (outside / "ledger.sqlite3").chmod(0),
        "touch ledger": lambda: os.utime(outside / "ledger.sqlite3", (0, 0)),
        "link given": lambda: os.link(given, "linked"),
        "make link": lambda: Path("link").symlink_to("/etc/passwd"),
        "make fifo": lambda: os.mkfifo("fifo"),
        "make device": lambda: os.mknod("null", 0o20600, os.makedev(1, 3)),
        "make file beside": lambda: Path("../made").touch(),
        "sparse file": lambda: sparse("sparse"),
        "write own": lambda: Path("own").write_text("mine", "ascii"),
        "write null": lambda: Path("/dev/null").write_text("x", "ascii"),
    }


def sparse(name: str) -> None:
    """A file of a terabyte that holds nothing."""
    with Path(name).open("wb") as file:
        file.truncate(2**40)


def processes(starter: int) -> dict[str, Callable[[], object]]:
    """Other processes, and powers over them."""
    true = "/bin/true"
    return {
        "fork": lambda: os.fork() or os._exit(0),
        "spawn": lambda: subprocess.run([true], check=False),
        "exec sh": lambda: os.execv("/bin/sh", ["sh", "-c", "exit 3"]),  # noqa: S606 - is refused
        "exec python": lambda: os.execv(sys.executable, [sys.executable, "-c", ""]),  # noqa: S606 - is refused
        "signal starter": lambda: os.kill(starter, 0),
        "signal init": lambda: os.kill(1, 0),
        "signal all": lambda: os.kill(-1, 0),
        "signal itself": lambda: os.kill(os.getpid(), 0),
        "limit starter": lambda: resource.prlimit(starter, resource.RLIMIT_NOFILE, (9, 9)),
        "raise limit": lambda: resource.setrlimit(
            resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        ),
        "pin starter": lambda: os.sched_setaffinity(starter, {0}),
        "renice starter": lambda: os.setpriority(os.PRIO_PROCESS, starter, 19),
        "lease": lambda: lease("own"),
    }


def lease(name: str) -> None:
    """Would stop whoever opens the file."""
    import fcntl

    with Path(name).open("rb") as file:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)


def sockets() -> dict[str, Callable[[], object]]:
    """Whatever speaks to somebody."""
    stream, datagram, raw = socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW
    return {
        "tcp": lambda: socket.socket(socket.AF_INET, stream),
        "tcp6": lambda: socket.socket(socket.AF_INET6, stream),
        "udp": lambda: socket.socket(socket.AF_INET, datagram),
        "unix": lambda: socket.socket(socket.AF_UNIX, stream),
        "netlink": lambda: socket.socket(socket.AF_NETLINK, raw),
        "packet": lambda: socket.socket(socket.AF_PACKET, raw),
        "alg": lambda: socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET),
        "vsock": lambda: socket.socket(socket.AF_VSOCK, stream),
    }


def calls() -> dict[str, Callable[[], object]]:
    """System calls as numbers; their arguments are never looked at."""
    libc = ctypes.CDLL(None, use_errno=True)
    numbers = seccomp.numbers(seccomp.MACHINES[platform.machine()])

    def call(number: int, *arguments: int) -> Callable[[], None]:
        def tried() -> None:
            if libc.syscall(*map(ctypes.c_long, (number, *arguments, *[0] * 5)[:6])) < 0:
                raise OSError(ctypes.get_errno(), "refused")

        return tried

    clone, clone3, prctl = (
        both[seccomp.MACHINES[platform.machine()].column]
        for both in (seccomp._CLONE, seccomp._CLONE3, seccomp._PRCTL)
    )
    new_user = 0x10000000
    found = {name: call(number) for name, number in numbers.items()}
    return found | {
        "clone into namespace": call(clone, new_user | 17),
        "clone3": call(clone3),
        "outlive starter": call(prctl, 1, 0),
        "be dumpable": call(prctl, 4, 1),
    }


def main() -> None:
    pipe = int(sys.argv[1])
    line = sys.stdin.readline()
    asked = json.loads(line)
    prisoner = Prisoner(pipe, asked)
    getattr(prisoner, asked["spec"]["model"]["name"])()
