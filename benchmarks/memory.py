"""Memory of an optimizer: the bytes of its state, and by how much a process grows.

    KERAS_BACKEND=torch python -m benchmarks.memory [--rules adam adan]

Each side runs in a fresh process over the variables of a ResNet-50: weights and gradients are made,
then the optimizer is built and takes five steps. Printed are the bytes of its variables as a
multiple of the rule's slots in float32, and the growth of the process' resident memory, at the end
and at its highest, as the same multiple. What a compiler keeps is part of that growth.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.parts import machine, results
from benchmarks.parts.plan import ELEMENTWISE, RULES
from benchmarks.parts.terminal import print_table, told

SET = "resnet50"
STEPS = 5
SIDES = ("ours", "keras", "ordinary")


def main(arguments: list[str] | None = None) -> None:
    """Measures each side in a process of its own, prints a table, and keeps the bytes."""
    given = parse(arguments)
    if given.one:
        rule, side = given.one
        print(json.dumps(grown(rule, side)))
        return
    report: dict[str, Any] = {
        "script": "memory",
        "backend": machine.backend(),
        "machine": machine.describe(),
        "set": SET,
        "cells": [],
    }
    todo = [(rule, side) for rule in given.rules for side in SIDES]
    try:
        for (rule, side), _ in told(todo, ", ".join):
            words = [sys.executable, "-m", "benchmarks.memory", "--one", rule, side]
            done = subprocess.run(  # noqa: S603 - this script again
                words, stdout=subprocess.PIPE, env=os.environ, check=True
            )
            if found := json.loads(done.stdout):
                report["cells"].append(found)
                results.save(report, given.json)
    except KeyboardInterrupt:
        print(f"stopped after {len(report['cells'])} of {len(todo)} sides", file=sys.stderr)
    print_table(table(report["cells"]))


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rules", nargs="+", choices=RULES, default=ELEMENTWISE)
    parser.add_argument("--one", nargs=2, metavar=("RULE", "SIDE"), help="in this process, as JSON")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keeps the bytes here")
    return parser.parse_args(arguments)


def grown(rule: str, side: str) -> dict[str, Any] | None:
    """The bytes of one side, measured in this process; None where there is no such side."""
    machine.hold_to_one_core()
    import keras
    import numpy as np
    from keras import ops

    from benchmarks.parts import floor, sides
    from benchmarks.parts.methods import METHODS
    from benchmarks.parts.plan import MODES
    from benchmarks.parts.sets import SETS

    method, shapes = METHODS[rule], SETS[SET]
    optimizer = getattr(method, f"make_{side}")()
    if optimizer is None:
        return None
    # Not from NumPy: arrays that frameworks share with it are copied at the first step.
    variables = [keras.Variable(ops.full(shape, 0.01)) for shape in shapes]
    gradients = [ops.full(shape, 0.01) for shape in shapes]
    before = machine.resident_bytes()
    optimizer.build(variables)
    state = sum(math.prod(v.shape) * np.dtype(v.dtype).itemsize for v in optimizer.variables)
    step = sides.STEPS[MODES[machine.backend()][-1]](optimizer, variables, gradients)()
    for _ in range(STEPS):
        step()
    gc.collect()
    return {
        "rule": rule,
        "title": method.title,
        "side": side,
        "slots": 4 * floor.traffic(method.make_ours(), shapes).slot_entries,
        "state": state,
        "grown": machine.resident_bytes() - before,
        "peak": machine.peak_bytes() - before,
    }


def table(cells: list[dict[str, Any]]) -> Table:
    """All sides as one table."""
    found = Table(title=f"Memory, slots in float32 = 1, {SET}", title_justify="left")
    for heading in ("rule", "side", "state", "process grows by", "at most"):
        found.add_column(heading, no_wrap=True)
    for cell in cells:
        multiples = (cell[name] / cell["slots"] for name in ("state", "grown", "peak"))
        found.add_row(cell["title"], cell["side"], *(f"{m:.2f}" for m in multiples))
    return found


if __name__ == "__main__":
    main()
