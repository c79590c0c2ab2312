"""The processor's name, which stands beside whatever is measured; standard library only."""

from __future__ import annotations

import platform
from pathlib import Path


def processor() -> str:
    """As the system calls it."""
    info = Path("/proc/cpuinfo")
    for line in info.read_text("utf-8").splitlines() if info.exists() else ():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()
