"""One optimizer step of ours, of Keras, and of other libraries, beside the floor of the memory.

    KERAS_BACKEND=torch python -m benchmarks.step [--sets many_small] [--rules adam lion]

All sides of one cell (a set of variables and a rule) run in one process, on one thread and one
core, in turn, round after round. Printed are medians over the rounds of CPU time as a multiple of
the floor, which is one fused pass in C over everything that the step reads and writes, and ours as
a multiple of every other side, with the quartiles of both over the rounds. `ordinary` is our rule
in an optimizer written the ordinary Keras way. On JAX whole steps are compiled; on TensorFlow they
are in the mode `xla`, and a graph in `graph`; on torch they run eagerly, with `--compiled` also
ours with `jit_compile=True`. The first call of every side, which traces and compiles, is timed too.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.parts import machine, results
from benchmarks.parts.plan import ELEMENTWISE, MODES, RULES, chosen
from benchmarks.parts.sets import LARGE, SETS, in_words
from benchmarks.parts.terminal import in_digits, print_table, told


def main(arguments: list[str] | None = None) -> None:
    """Measures, prints a table per cell, and keeps the raw seconds."""
    backend = machine.backend()
    given = parse(arguments, backend)
    machine.hold_to_one_core()
    from benchmarks.parts import cells

    report: dict[str, Any] = {
        "script": "step",
        "backend": backend,
        "machine": machine.describe(),
        "cells": [],
    }
    todo = chosen(given.modes, given.sets, given.rules)
    try:
        for place, tell in told(todo, ", ".join):
            cell = cells.of_set(
                *place,
                rounds=given.rounds,
                first_calls=given.first_call,
                compiled=given.compiled and place[0] in LARGE and place[1] in ELEMENTWISE,
                tell=tell,
            )
            report["cells"].append(cell)
            results.save(report, given.json)
            print_table(table(cell))
    except KeyboardInterrupt:
        sys.exit(f"stopped after {len(report['cells'])} of {len(todo)} cells")


def parse(arguments: list[str] | None, backend: str) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sets", nargs="+", choices=list(SETS), help="only these variables")
    parser.add_argument("--rules", nargs="+", choices=RULES, help="only these rules")
    parser.add_argument("--modes", nargs="+", choices=MODES[backend], default=MODES[backend])
    parser.add_argument("--rounds", type=int, default=15, help="at least; 0 is first calls only")
    parser.add_argument(
        "--first-call",
        type=int,
        default=1,
        metavar="TIMES",
        help="how often each side is traced and compiled, in alternating order (default: 1)",
    )
    parser.add_argument(
        "--compiled",
        action="store_true",
        help="on torch also jit_compile=True for elementwise rules over large variables",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="keeps the raw seconds here")
    return parser.parse_args(arguments)


def table(cell: dict[str, Any]) -> Table:
    """One cell as a table of ratios."""
    title = f"{cell['title']} on {cell['set']} ({in_words(SETS[cell['set']])}), {cell['mode']}"
    found = Table(title=title, title_justify="left", caption_justify="left")
    found.add_column("side", no_wrap=True)
    for heading in ("of the floor", "ours / side", "first call, s"):
        found.add_column(heading, justify="right", no_wrap=True)
    for side, seconds in cell["seconds"].items():
        ratios = ("", "")
        if seconds:
            pairs = ((side, results.FLOOR), ("ours", side))
            ratios = tuple(in_digits(results.over(cell, *pair)) for pair in pairs)
        first = f"{results.first_call(cell, side):.2f}" if side in cell["first_call"] else ""
        found.add_row(side, *ratios, first)
    if rounds := len(cell["seconds"][results.FLOOR]):
        kind = "C" if cell["floor_is_c"] else "no C compiler: a NumPy copy"
        found.caption = f"floor ({kind}): {results.bandwidth(cell):.1f} GB/s; {rounds} rounds"
    return found


if __name__ == "__main__":
    main()
