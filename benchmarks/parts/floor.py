"""The floor: one fused pass over everything that a step has to read and write."""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.parts.sets import Shape, size

COMPILER = shutil.which("cc")
FLAGS = ("-O3", "-march=native", "-shared", "-fPIC")


@dataclass(frozen=True)
class Traffic:
    """What one step touches, in float32.

    Args:
        entries: Of the weights, and of the gradients.
        full: Slots that every variable has in its own shape.
        rest: Entries of all other slots.
    """

    entries: int
    full: int
    rest: int

    @property
    def bytes(self) -> int:
        """Weights and slots are read and written, gradients read."""
        return 4 * (3 * self.entries + 2 * self.slot_entries)

    @property
    def slot_entries(self) -> int:
        """Entries of all slots."""
        return self.full * self.entries + self.rest


def traffic(rule: Any, shapes: Sequence[Shape]) -> Traffic:
    """What a step of a rule touches.

    Args:
        rule: Its `slots(shape)` is asked.
        shapes: Of the variables.
    """
    own = [[slot.shape_for(shape) for slot in rule.slots(shape)] for shape in shapes]
    full = min(slots.count(shape) for slots, shape in zip(own, shapes, strict=True))
    every = sum(size(slots) for slots in own)
    entries = size(list(shapes))
    return Traffic(entries, full, every - full * entries)


def one_pass(touched: Traffic) -> Callable[[], None]:
    """A function that touches it all once, by C where there is a compiler, else a NumPy copy."""
    if COMPILER is None:
        source = np.ones(touched.bytes // 8, "float32")
        target = np.ones_like(source)
        return lambda: np.copyto(target, source)
    n, rest = touched.entries, max(1, touched.rest)
    arrays = [np.full(n, 0.01, "float32") for _ in range(2 + touched.full)]
    arrays.append(np.full(rest, 0.01, "float32"))
    pointers = [a.ctypes.data_as(ctypes.POINTER(ctypes.c_float)) for a in arrays]
    fused = _compiled(touched.full)

    def run(arrays: Any = arrays) -> None:
        del arrays  # kept alive by being the default
        fused(ctypes.c_long(n), ctypes.c_long(touched.rest), *pointers)

    return run


@functools.cache
def _compiled(full: int) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "floor.c"), Path(folder, "floor.so")
        source.write_text(_source(full), "ascii")
        command = [str(COMPILER), *FLAGS, str(source), "-o", str(library)]
        subprocess.run(command, check=True)  # noqa: S603 - the C compiler, on our own text
        return ctypes.CDLL(str(library)).one_pass


def _source(full: int) -> str:
    slots = [f"s{number}" for number in range(full)]
    pointers = "".join(f", float *restrict {slot}" for slot in slots)
    averages = "".join(f"{slot}[i] = 0.9f * {slot}[i] + 0.1f * g[i]; " for slot in slots)
    step = " + ".join(f"{slot}[i]" for slot in slots) or "g[i]"
    return (
        "void one_pass(long n, long m, float *restrict w, const float *restrict g"
        f"{pointers}, float *restrict rest) {{\n"
        f"  for (long i = 0; i < n; i++) {{ {averages}w[i] -= 1e-3f * ({step}); }}\n"
        "  for (long i = 0; i < m; i++) rest[i] = 0.9f * rest[i] + 1e-3f;\n"
        "}\n"
    )
