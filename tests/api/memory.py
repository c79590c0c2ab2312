"""The memory of the process that runs the tests, as the system counts it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

# What uploads may add to a process of the service.
GROWTH = 50 * 2**20
STATUS = Path("/proc/self/status")


def resident() -> int:
    """Bytes in memory; 0 where the system does not tell."""
    return _count("VmRSS")


@contextmanager
def peak() -> Iterator[Callable[[], int]]:
    """Says after the block by how many bytes memory had grown at its highest."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", "ascii")  # the highest is where it stands
    before = resident()
    found = 0
    yield lambda: found
    found = _count("VmHWM") - before


def _count(name: str) -> int:
    if not STATUS.exists():
        return 0
    match = re.search(rf"^{name}:\s+(\d+) kB", STATUS.read_text("ascii"), re.MULTILINE)
    return int(match[1]) * 2**10 if match else 0
