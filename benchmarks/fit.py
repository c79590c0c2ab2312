"""What an optimizer adds to the steps of `model.fit`: ours beside the ordinary Keras way.

    KERAS_BACKEND=torch python -m benchmarks.fit [--models mlp] [--rounds 9]

Three small models train on synthetic data, the same for everyone, in one process, on one thread and
one core. Whole short fits take turns, round after round. What an optimizer adds is the CPU time of
its fit beyond that of Keras' SGD without momentum, which only has to touch the weights; printed are
medians over the rounds, as a share of a step of SGD, with quartiles, and ours as a multiple of what
the same rule adds in an optimizer written the ordinary Keras way.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.parts import machine, results
from benchmarks.parts.terminal import in_digits, print_table, told

MODELS = ("mlp", "cnn", "transformer")


def main(arguments: list[str] | None = None) -> None:
    """Measures, prints a table per model, and keeps the raw seconds."""
    given = parse(arguments)
    machine.hold_to_one_core()
    from benchmarks.parts import fits

    report: dict[str, Any] = {
        "script": "fit",
        "backend": machine.backend(),
        "machine": machine.describe(),
        "cells": [],
    }
    try:
        for model, tell in told(given.models, str):
            cell = fits.measured(model, rounds=given.rounds, tell=tell)
            report["cells"].append(cell)
            results.save(report, given.json)
            print_table(table(cell))
    except KeyboardInterrupt:
        sys.exit(f"stopped after {len(report['cells'])} of {len(given.models)} models")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--rounds", type=int, default=9, help="fits of each side, at least 1")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keeps the raw seconds here")
    return parser.parse_args(arguments)


def table(cell: dict[str, Any]) -> Table:
    """One model as a table."""
    title = f"{cell['title']} ({cell['tensors']} tensors, {cell['parameters'] / 1e6:.2f} M)"
    found = Table(title=title, title_justify="left")
    found.add_column("optimizer", no_wrap=True)
    for heading in ("added, steps of SGD", "ours / ordinary"):
        found.add_column(heading, justify="right", no_wrap=True)
    for side in cell["seconds"]:
        if side == results.PLAIN:
            continue
        rule, _, kind = side.partition(", ")
        share = results.added_ratio(cell, rule) if kind == "ours" else None
        in_words = "" if share is None else f"{share:.2f}"
        found.add_row(side, in_digits(results.added(cell, side)), in_words)
    return found


if __name__ == "__main__":
    main()
