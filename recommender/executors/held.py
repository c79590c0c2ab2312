"""Whether the jail holds on this machine: tries from inside what must fail.

    python -m recommender.executors.jail FOLDER JOURNAL MEMORY_MB MODULE STARTER PORT

with this module for MODULE. It imports no framework, so the answer is there within half a second.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from recommender.executors import cell, jail
from recommender.executors.local import child_environment

SECONDS = 20.0
MEMORY_MB = 256


@functools.cache
def refusal() -> str | None:
    """Why the jail does not hold here, in a sentence; None where it does. Asked once."""
    if sys.platform != "linux":
        return f"There is no jail for {sys.platform}, only for Linux."
    with tempfile.TemporaryDirectory(prefix="held-") as name, socket.socket() as listening:
        folder = Path(name)
        (folder / "secret").write_text("seen", "ascii")
        cell.make(folder)
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        command = [
            *(sys.executable, "-m", jail.__name__, str(folder), str(folder / jail.JOURNAL)),
            *(str(MEMORY_MB), __name__, str(os.getpid()), str(port)),
        ]
        try:
            done = subprocess.run(  # noqa: S603 - our own module in our own interpreter
                command,
                cwd=folder / jail.WORK,
                env=child_environment(os.environ, "", folder / jail.WORK),
                input=b"",
                capture_output=True,
                timeout=SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"The trial of the jail took more than {SECONDS:g} s."
        if done.returncode == 0:
            return None
        words = done.stderr.decode(errors="replace").strip().splitlines()
        return f"The jail does not hold: {words[-1] if words else done.returncode}"[:300]


def main() -> None:
    """Try, and end with what did not hold."""
    starter, port = map(int, sys.argv[1:])
    ours = Path.cwd() / "note"
    ours.write_text("mine", "ascii")
    if ours.read_text("ascii") != "mine":
        sys.exit("its own folder cannot be used")
    for what, attempt in attempts(starter, port).items():
        with contextlib.suppress(PermissionError):
            attempt()
            sys.exit(f"it let a process {what}")


def attempts(starter: int, port: int) -> dict[str, Callable[[], object]]:
    """What must raise PermissionError in the jail.

    Args:
        starter: A process outside.
        port: Where one listens on loopback.
    """
    outside = Path.cwd().parent
    return {
        "read a file outside of its folder": (outside / "secret").read_text,
        "list a folder outside": lambda: os.listdir(outside),  # noqa: PTH208 - the call itself
        "write outside of its folder": lambda: (outside / "made").write_text("", "ascii"),
        "read the users": Path("/etc/passwd").read_text,
        "connect to a port": lambda: socket.create_connection(("127.0.0.1", port), 1).close(),
        "start another": os.fork,
        "start a shell": lambda: os.execv("/bin/sh", ["sh", "-c", "exit 0"]),  # noqa: S606 - the call itself
        "signal its starter": lambda: os.kill(starter, 0),
        "have its own namespaces": _unshare,
        "outlive its starter": _outlive,
    }


def _unshare() -> None:
    new_user = 0x10000000
    _checked(ctypes.CDLL(None, use_errno=True).unshare(new_user))


def _outlive() -> None:
    end_with_parent = 1
    libc = ctypes.CDLL(None, use_errno=True)
    _checked(libc.prctl(end_with_parent, *(ctypes.c_ulong(0) for _ in range(4))))


def _checked(code: int) -> None:
    if code:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
