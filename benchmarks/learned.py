"""Where the shipped learned optimizers beat tuned ones, and where not; writes docs/learned.md.

    KERAS_BACKEND=jax python -m benchmarks.learned [--families mlp] [--keep]

Families of problems (benchmarks/parts/learned_tasks.py) are trained side by side, every optimizer
on the same problems and minibatches. SGD, Nesterov momentum, RMSprop and Adam get the best of 9 to
13 learning rates for that family and length, found on problems drawn with another seed; learned
optimizers run as they are. The final loss of a run is the mean over its last ten steps. A learned
optimizer is compared with each of the others by a one-sided Wilcoxon test on the logarithms of the
final losses, paired by problem. Results go on where they were interrupted.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.parts import machine, results

FOLDER = Path(__file__).resolve().parent.parent / "docs"
PAGE, FIGURES = FOLDER / "learned.md", FOLDER / "learned.json"
TUNING_SEED, SEED = 20_001, 20_002
LAST = 10
# Half decades; quarters for Adam.
RATES = {
    "SGD": np.geomspace(1e-3, 1e3, 13),
    "Nesterov": np.geomspace(1e-3, 1e3, 13),
    "RMSprop": np.geomspace(1e-4, 1.0, 9),
    "Adam": np.geomspace(1e-3, 1.0, 13),
}
MARKS = "<!-- results -->", "<!-- end of results -->"
# Points of a curve that are kept.
POINTS = 100
Cell = dict[str, Any]


def tuned() -> dict[str, Any]:
    """The optimizers that are tuned."""
    import keras_gradopt as kg

    return {
        "SGD": kg.SGD(),
        "Nesterov": kg.SGD(momentum=0.9, nesterov=True),
        "RMSprop": kg.RMSprop(),
        "Adam": kg.Adam(),
    }


def learned() -> dict[str, Any]:
    """The learned ones, by the set of weights."""
    import keras_gradopt as kg
    from keras_gradopt.learned import network

    return {f"learned, {name}": kg.LearnedOptimizer(weights=name) for name in network.shipped()}


def main(arguments: list[str] | None = None) -> None:
    """Trains, keeps the figures, and writes tables and plots."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--families", nargs="+", help="only these")
    parser.add_argument("--keep", action="store_true", help="do not train what has figures already")
    parser.add_argument(
        "--tuned-only", action="store_true", help="leave the learned ones for later"
    )
    parser.add_argument("--json", type=Path, default=FIGURES, help="keeps the figures here")
    given = parser.parse_args(arguments)
    machine.backend()
    from benchmarks.parts.learned_tasks import families

    report: dict[str, Any] = {"machine": machine.describe(), "cells": {}}
    if (given.keep or given.families) and given.json.exists():
        report["cells"] = json.loads(given.json.read_text("utf-8"))["cells"]
    found = families()
    try:
        for name in given.families or found:
            cell = report["cells"].setdefault(name, {})
            if not given.keep:
                cell.clear()
            cell["title"] = found[name].title
            for what in measured(cell, found[name], tuned_only=given.tuned_only):
                print(f"{name}: {what}", flush=True)
                results.save(report, given.json)
    except KeyboardInterrupt:
        sys.exit("stopped; the same command with --keep goes on from here")
    if not given.tuned_only:
        report["cells"] = {name: report["cells"][name] for name in found if name in report["cells"]}
        results.save(report, given.json)
        publish(report)


def measured(cell: Cell, family: Any, *, tuned_only: bool) -> Iterator[str]:
    """Fills in what a cell lacks, and yields what was trained."""
    from benchmarks.parts.episodes import Runner

    task, steps = family.task(), max(family.lengths)
    cell["problems"] = task.problems
    curves, ends = cell.setdefault("curves", {}), cell.setdefault("ends", {})
    for label, rule in tuned().items():
        if label in ends:
            continue
        runner, runs = Runner(task, rule), {}
        scores = {
            float(rate): runner.train(float(rate), TUNING_SEED, steps) for rate in RATES[label]
        }
        ends[label], curves[label], cell.setdefault("rates", {})[label] = {}, {}, {}
        for length in family.lengths:
            found = {rate: score(finals(losses, length)) for rate, losses in scores.items()}
            rate = min(found, key=found.__getitem__)
            losses = runs.setdefault(rate, None)
            if losses is None:
                losses = runs[rate] = runner.train(rate, SEED, steps)
            note(cell, label, length, losses)
            cell["rates"][label][str(length)] = rate
        yield label
    for label, rule in ({} if tuned_only else learned()).items():
        if label not in ends:
            ends[label], curves[label] = {}, {}
            losses = Runner(task, rule).train(0.1, SEED, steps)
            for length in family.lengths:
                note(cell, label, length, losses)
            yield label


def note(cell: Cell, label: str, length: int, losses: np.ndarray) -> None:
    """Takes final losses and the median curve of a training down, in five digits."""
    cell["ends"][label][str(length)] = [float(f"{v:.5g}") for v in finals(losses, length)]
    middle = np.nanmedian(np.where(np.isfinite(losses[:length]), losses[:length], np.inf), axis=1)
    thin = middle[:: max(1, length // POINTS)]
    cell["curves"][label][str(length)] = [float(f"{v:.5g}") for v in thin]


def finals(losses: np.ndarray, length: int) -> np.ndarray:
    """Each problem's mean over the last steps; infinite where it diverged."""
    last = np.mean(losses[length - LAST : length], axis=0, dtype="float64")
    return np.where(np.isfinite(last), last, np.inf)


def score(ends: np.ndarray) -> float:
    """What rates are chosen by: the mean logarithm of final losses, which the test compares."""
    return float(np.mean(np.log(np.maximum(ends, 1e-30))))


# --- what they say ---


def compared(ours: list[float], theirs: list[float]) -> tuple[float, int, float]:
    """The median ratio of final losses, how many are lower, and the test's p."""
    from scipy import stats

    # A run that diverged counts as a very large loss.
    a, b = (np.log(np.clip(x, 1e-30, 1e30)) for x in (ours, theirs))
    p = float(stats.wilcoxon(a - b, alternative="less").pvalue)
    return math.exp(float(np.median(a - b))), int(np.sum(a < b)), p


def tables(report: dict[str, Any]) -> str:
    """Two tables in Markdown: final losses, then the learned ones against Adam and the best."""
    cells = report["cells"].values()
    found = dict.fromkeys(label for cell in cells for label in cell["ends"])
    labels = [*RATES, *sorted(found.keys() - RATES.keys())]
    lines = ["Median final loss (the tuned learning rate in brackets):", ""]
    lines += [row(["problems", "steps", "runs", *labels]), row(["---"] * (3 + len(labels)))]
    for cell, length in rows(report):
        values = []
        for label in labels:
            rate = cell["rates"].get(label, {}).get(length)
            value = shown(float(np.median(cell["ends"][label][length])))
            values.append(value + (f" ({rate:.2g})" if rate is not None else ""))
        lines.append(row([cell["title"], length, str(cell["problems"]), *values]))
    others = list(RATES)
    ours = [label for label in labels if label not in RATES]
    for label in ours:
        lines += [
            "",
            f"`{label}` against each of them: ratio of final losses (median), runs won, p:",
        ]
        lines += ["", row(["problems", "steps", *others]), row(["---"] * (2 + len(others)))]
        for cell, length in rows(report):
            cells_of_row = []
            for other in others:
                ratio, won, p = compared(cell["ends"][label][length], cell["ends"][other][length])
                text = f"{shown(ratio)}, {won}/{cell['problems']}, {p:.1g}"
                cells_of_row.append(f"**{text}**" if p < 0.01 else text)
            lines.append(row([cell["title"], length, *cells_of_row]))
    about = report["machine"]
    lines += [
        "",
        (
            f"Made by `python -m benchmarks.learned` on {about['date']}: {about['processor']}, "
            f"Keras {about['keras']}, JAX {about['jax']}."
        ),
    ]
    return "\n".join(lines)


def rows(report: dict[str, Any]) -> Iterator[tuple[Cell, str]]:
    """Every family at every length."""
    for cell in report["cells"].values():
        for length in cell["ends"]["Adam"]:
            yield cell, length


def row(cells: list[str]) -> str:
    """A line of a table."""
    return "| " + " | ".join(cells) + " |"


def shown(value: float) -> str:
    """A loss or a ratio in two digits."""
    return f"{value:.2g}" if math.isfinite(value) else "diverged"


def publish(report: dict[str, Any]) -> None:
    """Writes the tables between the page's marks, and the plots."""
    start, end = MARKS
    text = PAGE.read_text("utf-8")
    filled = f"{start}\n{tables(report)}\n{end}"
    pattern = re.compile(re.escape(start) + ".*?" + re.escape(end), re.DOTALL)
    PAGE.write_text(pattern.sub(lambda _: filled, text), "utf-8")
    plot(report)


def plot(report: dict[str, Any]) -> None:
    """Median curves of every family, in one picture."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    panels = list(rows(report))
    labels = sorted(panels[0][0]["curves"], key=lambda label: (label not in RATES, label))
    columns = 4
    height = -(-len(panels) // columns)
    figure, axes = plt.subplots(height, columns, figsize=(4 * columns, 3 * height))
    for axis, (cell, length) in zip(axes.flat, panels, strict=False):
        for label in labels:
            curve = np.array(cell["curves"][label][length])
            steps = np.arange(len(curve)) * max(1, int(length) // POINTS)
            style = "--" if label in RATES else "-"
            axis.plot(
                steps, np.clip(curve, 1e-8, 1e3 * curve[0]), style, label=label, linewidth=1.5
            )
        axis.set_yscale("log")
        axis.set_title(f"{cell['title']}, {length} steps", fontsize=9)
        axis.tick_params(labelsize=7)
    for axis in list(axes.flat)[len(panels) :]:
        axis.axis("off")
    handles, names = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="upper center", ncol=len(names), fontsize=10)
    figure.tight_layout(rect=(0, 0, 1, 0.97))
    figure.savefig(FOLDER / "learned.png", dpi=70)
    plt.close(figure)


if __name__ == "__main__":
    main()
