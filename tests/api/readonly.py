"""A process of the service that can only read the disk: `python -m tests.api.readonly web FD`."""

from __future__ import annotations

import ctypes
import runpy
from pathlib import Path

from recommender.executors import jail

if __name__ == "__main__":
    # Root may write what its mode forbids; the kernel's jail holds root as well.
    everything = jail.Jail(readable=(Path("/"),), writable=())
    libc = ctypes.CDLL(None, use_errno=True)
    jail._drop_capabilities(libc)
    jail._prctl(libc, 38, 1)  # no new privileges, without which nobody but root may jail itself
    jail._restrict_paths(libc, everything)
    runpy.run_module("api", run_name="__main__")
