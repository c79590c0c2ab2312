"""The machine: held to one core while it measures, and named beside the figures."""

from __future__ import annotations

import contextlib
import ctypes
import datetime as dt
import importlib.metadata
import os
import platform
import sys
from pathlib import Path

from recommender.knowledge.processor import processor

# Read when a framework is imported, and by NumPy.
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3"}
FRAMEWORKS = {"jax": "jax", "tensorflow": "tensorflow-cpu", "torch": "torch"}
PEERS = {
    "jax": ("optax",),
    "tensorflow": (),
    "torch": ("pytorch-optimizer", "heavyball"),
}


def backend() -> str:
    """The backend that this process measures."""
    return os.environ.setdefault("KERAS_BACKEND", "jax")


def hold_to_one_core() -> None:
    """Gives this process one thread and one core; call it before a framework is imported."""
    loaded = {"numpy", "keras", *FRAMEWORKS} & set(sys.modules)
    assert not loaded, f"{loaded} came before the number of threads was set"
    os.environ.update(ONE_THREAD)
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if hasattr(os, "sched_setaffinity"):
        # The last one: whatever else runs starts at the first.
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def describe() -> dict[str, str]:
    """Processor, cores, memory, versions and date: what figures hold for."""
    found = {
        "processor": processor(),
        "cores": str(os.cpu_count()),
        "memory": f"{_memory() / 2**30:.0f} GiB",
        "system": f"{platform.system()}, Python {platform.python_version()}",
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "keras": importlib.metadata.version("keras"),
    }
    for name in (FRAMEWORKS[backend()], *PEERS[backend()]):
        found[name.removesuffix("-cpu")] = _version(name)
    return found


def resident_bytes() -> int:
    """Memory that this process holds at present, less what it has freed and kept."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    pages = Path("/proc/self/statm").read_text("ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def peak_bytes() -> int:
    """The most memory that this process has held so far."""
    import resource  # not on Windows

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return importlib.metadata.version(distribution.removesuffix("-cpu"))


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
