"""One optimizer step on an accelerator, beside what other libraries do there.

    KERAS_BACKEND=torch python -m benchmarks.accelerator [--sets many_small] [--rules adam lion]

As `benchmarks.step`, but by the wall clock: each side queues some steps and waits for the device.
The floor is a copy on the device that moves as many bytes as the rule has to.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.parts import machine, results
from benchmarks.parts.plan import MODES, RULES, chosen
from benchmarks.parts.results import FLOOR
from benchmarks.parts.sets import SETS, in_words
from benchmarks.parts.terminal import in_digits, print_table, told

# Steps that are queued before the device is waited for.
STEPS = 10
# A slower side is stepped once a round.
SLOW_SECONDS = 0.05


def main(arguments: list[str] | None = None) -> None:
    """Measures, prints a table per cell, and keeps the raw seconds."""
    given = parse(arguments)
    device = _Device(machine.backend())
    report: dict[str, Any] = {
        "script": "accelerator",
        "backend": machine.backend(),
        "machine": machine.describe() | {"device": device.name},
        "cells": [],
    }
    todo = chosen(MODES[machine.backend()], given.sets, given.rules)
    try:
        for place, tell in told(todo, ", ".join):
            report["cells"].append(measured(device, *place, given.rounds, tell))
            results.save(report, given.json)
            print_table(table(report["cells"][-1]))
    except KeyboardInterrupt:
        sys.exit(f"stopped after {len(report['cells'])} of {len(todo)} cells")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sets", nargs="+", choices=list(SETS), help="only these variables")
    parser.add_argument("--rules", nargs="+", choices=RULES, help="only these rules")
    parser.add_argument("--rounds", type=int, default=9, help="at least 1")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keeps the raw seconds here")
    return parser.parse_args(arguments)


class _Device:
    """The accelerator of a backend: its name, how to wait for it, and a copy on it."""

    def __init__(self, backend: str) -> None:
        if backend == "torch":
            import torch

            if not torch.cuda.is_available():
                sys.exit("torch finds no CUDA device here; `benchmarks.step` measures on the CPU")
            # The peers make their tensors there too.
            torch.set_default_device("cuda")
            self.name, self.wait = torch.cuda.get_device_name(), torch.cuda.synchronize
        elif backend == "jax":
            import jax

            self.name, self.wait = jax.devices()[0].device_kind, lambda: None
            if jax.default_backend() == "cpu":
                sys.exit("JAX finds no accelerator here; `benchmarks.step` measures on the CPU")
        else:
            sys.exit(f"KERAS_BACKEND is {backend}; it may be torch or jax")
        self._backend = backend

    def copy(self, moved: int) -> Callable[[], Any]:
        """Reads and writes so many bytes together."""
        if self._backend == "torch":
            import torch

            source = torch.ones(moved // 8)
            target = torch.empty_like(source)
            return lambda: target.copy_(source)
        import jax

        add = jax.jit(lambda x: x + 1, donate_argnums=0)
        kept = [jax.numpy.ones(moved // 8)]

        def step() -> None:
            kept[0] = jax.block_until_ready(add(kept[0]))

        return step


def measured(
    device: _Device, name: str, rule: str, mode: str, rounds: int, tell: Callable[[str], Any]
) -> dict[str, Any]:
    """The figures of one cell, ready for JSON."""
    from benchmarks.parts import floor
    from benchmarks.parts import sides as all_sides
    from benchmarks.parts.cells import rounded
    from benchmarks.parts.methods import METHODS

    method, shapes = METHODS[rule], SETS[name]
    tell("building")
    sides = all_sides.sides(rule, method, shapes, mode)
    del sides[FLOOR]
    touched = floor.traffic(method.make_ours(), shapes)
    sides[FLOOR] = all_sides.Side(lambda: device.copy(touched.bytes))
    steps = {}
    for side_name, side in sides.items():
        tell(f"first call of {side_name}")
        side.renew()
        _timed(device, side, 1)
        slow = _timed(device, side, 1) > SLOW_SECONDS
        steps[side_name] = 1 if slow else max(STEPS, method.steps_per_call)
    seconds: dict[str, list[float]] = {side_name: [] for side_name in sides}
    for turn in range(rounds):
        tell(f"round {turn + 1}")
        for side_name, side in sides.items():
            seconds[side_name].append(side.scale * _timed(device, side, steps[side_name]))
    return {
        "set": name,
        "rule": rule,
        "title": method.title,
        "bytes": touched.bytes,
        "seconds": {side_name: rounded(values) for side_name, values in seconds.items()},
    }


def _timed(device: _Device, side: Any, steps: int) -> float:
    taken = 0.0
    for _ in range(steps):
        side.prepare()
        began = time.perf_counter()
        side.step()
        taken += time.perf_counter() - began
    began = time.perf_counter()
    device.wait()
    return (taken + time.perf_counter() - began) / steps


def table(cell: dict[str, Any]) -> Table:
    """One cell as a table of ratios."""
    title = f"{cell['title']} on {cell['set']} ({in_words(SETS[cell['set']])})"
    found = Table(title=title, title_justify="left", caption_justify="left")
    for heading in ("side", "of the floor", "ours / side"):
        found.add_column(heading, justify="right" if found.columns else "left", no_wrap=True)
    for side in cell["seconds"]:
        pairs = ((side, FLOOR), ("ours", side))
        found.add_row(side, *(in_digits(results.over(cell, *pair)) for pair in pairs))
    found.caption = f"floor: {results.bandwidth(cell):.0f} GB/s"
    return found


if __name__ == "__main__":
    main()
