"""The memory of the process that runs the tests, as the system counts it."""

from __future__ import annotations

import contextlib
import ctypes
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

# What uploads may add to a process of the service.
GROWTH = 50 * 2**20
STATUS = Path("/proc/self/status")


def resident() -> int:
    """Bytes in memory, without what is free and only kept for later; 0 where nobody tells."""
    with contextlib.suppress(OSError, AttributeError):  # no library of C that gives it back
        ctypes.CDLL(None).malloc_trim(0)
    return _count("VmRSS")


@contextmanager
def peak() -> Iterator[Callable[[], int]]:
    """Says after the block by how many bytes memory had grown at its highest."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", "ascii")  # the highest is where it stands
    before = _count("VmRSS")
    found = 0
    yield lambda: found
    found = _count("VmHWM") - before


def _count(name: str) -> int:
    if not STATUS.exists():
        return 0
    match = re.search(rf"^{name}:\s+(\d+) kB", STATUS.read_text("ascii"), re.MULTILINE)
    return int(match[1]) * 2**10 if match else 0
