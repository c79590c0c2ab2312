"""What probes cost: our engine beside build + compile + fit, Optuna's loop and KerasTuner's.

    KERAS_BACKEND=jax python -m benchmarks.probes [--models mlp] [--candidates 32] [--others 6]

Each candidate is 256 steps of batches of 32 and one validation, on synthetic data, in one process,
on one thread and one core; sides take turns. Ours is the sum over all candidates, compiling
included and no cache of compiled programs used. The loops cost the same for each candidate, so a
few are measured, and their median is taken as often as there are candidates. KerasTuner is left
out, and its absence told, where it is not installed: it comes with
`pip install --no-deps -r constraints/bench.txt`.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.parts import machine, results
from benchmarks.parts.terminal import print_table, told

MODELS = ("mlp", "gru", "cnn")


def main(arguments: list[str] | None = None) -> None:
    """Measures, prints a table per model, and keeps the raw seconds."""
    given = parse(arguments)
    machine.hold_to_one_core()
    os.environ["GRADOPT_CACHE"] = "off"
    from benchmarks.parts import probing

    report: dict[str, Any] = {
        "script": "probes",
        "backend": machine.backend(),
        "machine": machine.describe(),
        "cells": [],
    }
    for model, tell in told(given.models, str):
        cell = probing.measured(model, candidates=given.candidates, others=given.others, tell=tell)
        report["cells"].append(cell)
        results.save(report, given.json)
        print_table(table(cell))
        if probing.TUNER not in cell["seconds"]:
            sys.stderr.write("KerasTuner is not installed, so it was left out.\n")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--candidates", type=int, default=32, help="of our engine, at most 32")
    parser.add_argument("--others", type=int, default=6, help="candidates of each other loop")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keeps the raw seconds here")
    return parser.parse_args(arguments)


def table(cell: dict[str, Any]) -> Table:
    """One model as a table."""
    title = f"{cell['title']}: {cell['candidates']} candidates of {cell['steps']} steps"
    found = Table(title=title, title_justify="left")
    found.add_column("side", no_wrap=True)
    for heading in ("CPU seconds", "ours / other", "times faster"):
        found.add_column(heading, justify="right", no_wrap=True)
    for side in cell["seconds"]:
        found.add_row(side, *results.probe_figures(cell, side))
    return found


if __name__ == "__main__":
    main()
