"""Searches without gradients, beside the libraries that people take for them and beside gradients.

    KERAS_BACKEND=jax python -m benchmarks.gradient_free [--only cma_es] [--json FILE]

cma_es: evaluations until a target, and how often it is reached, over 25 seeds, beside `cmaes` and
`cma` on four standard functions in 2 to 40 dimensions, in float64, each with its own draws.
hybrid: final losses of a hybrid and of its parts at equal evaluations, on four problems with many
minima, over 15 seeds; the test is Wilcoxon's signed-rank test on the losses of equal seeds.
bayes: simple regret of Bayesian optimisation beside scikit-optimize's, on record, on two functions.
thresholds: the accuracy of a network of hard thresholds, over 3 seeds.
Results go on where they were interrupted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.parts import machine, results
from benchmarks.parts.terminal import print_table

SEEDS = 25
BAYES_SEEDS = 15
LIBRARIES = ("ours", "cmaes", "cma")
HYBRID = "CMA-ES, then L-BFGS"
Cell = dict[str, Any]


def main(arguments: list[str] | None = None) -> None:
    """Measures what is missing, prints tables, and keeps the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=list(MEASURES), default=list(MEASURES))
    parser.add_argument("--json", type=Path, metavar="FILE", help="keeps the figures here")
    given = parser.parse_args(arguments)
    machine.hold_to_one_core()
    for part in given.only:
        # Read anew: another part may be measured at the same time.
        report: dict[str, Any] = {"script": "gradient_free", "backend": machine.backend()}
        if given.json and given.json.exists():
            report = json.loads(given.json.read_text())
        report["machine"] = machine.describe()
        try:
            for _ in MEASURES[part](report.setdefault("cells", [])):
                results.save(report, given.json)
        except KeyboardInterrupt:
            sys.exit("stopped; the same command goes on from here")
        headings, rows = TABLES[part](report["cells"])
        table = Table(title=part)
        for heading in headings:
            table.add_column(heading)
        for row in rows:
            table.add_row(*row)
        print_table(table)


def cell_of(cells: list[Cell], **key: Any) -> Cell:
    """The cell with these entries, made if it is missing."""
    for cell in cells:
        if all(cell.get(name) == value for name, value in key.items()):
            return cell
    cells.append(dict(key))
    return cells[-1]


# ---------------------------------------------------------------------- CMA-ES


def measure_cma_es(cells: list[Cell]) -> Iterator[None]:
    """Evaluations to the target of each seed, by library, function and dimension."""
    import keras_gradopt as kg
    from benchmarks.parts.black_boxes import (
        FUNCTIONS,
        double_precision,
        run_cma,
        run_cmaes,
        run_ours,
    )

    double_precision()
    for name, function in FUNCTIONS.items():
        for size in function.dimensions:
            optimizer = kg.CMAES(sigma=function.sigma, population_size=function.population(size))
            runs = {
                "ours": lambda seed, n=name, s=size, o=optimizer: run_ours(n, s, o, seed),
                "cmaes": lambda seed, n=name, s=size: run_cmaes(n, s, seed),
                "cma": lambda seed, n=name, s=size: run_cma(n, s, seed),
            }
            cell = cell_of(cells, part="cma_es", function=name, size=size, title=function.title)
            for library, run in runs.items():
                found = cell.setdefault(library, [])
                while len(found) < SEEDS:
                    found.append(run(len(found))[0])
                    yield
            print(*cma_es_row(cell), sep="  ", flush=True)


def cma_es_row(cell: Cell) -> list[str]:
    """Medians of the successful runs with the successes, ours over theirs, and chance.

    The p-values are those of Fisher's exact test that successes are alike.
    """
    import scipy.stats

    reached = {k: [v for v in cell[k] if v is not None] for k in LIBRARIES}
    medians = {k: statistics.median(v) if v else None for k, v in reached.items()}
    row = [cell["title"], str(cell["size"])]
    for k in LIBRARIES:
        number = "never" if medians[k] is None else f"{medians[k]:,.0f}"
        row.append(f"{number} ({len(reached[k])}/{len(cell[k])})")
    for k in LIBRARIES[1:]:
        both = medians["ours"] and medians[k]
        row.append(f"{medians['ours'] / medians[k]:.2f}" if both else "")
    for k in LIBRARIES[1:]:
        counts = [[len(reached[x]), len(cell[x]) - len(reached[x])] for x in ("ours", k)]
        row.append(f"{scipy.stats.fisher_exact(counts).pvalue:.2f}")
    return row


def cma_es_table(cells: list[Cell]) -> tuple[list[str], list[list[str]]]:
    """Evaluations and successes by function and dimension."""
    headings = ["function", "n", *LIBRARIES, "ours / cmaes", "ours / cma"]
    headings += ["p of successes, cmaes", "p, cma"]
    whole = [c for c in cells if c["part"] == "cma_es" and all(c.get(k) for k in LIBRARIES)]
    return headings, [cma_es_row(cell) for cell in whole]


# ---------------------------------------------------------------------- hybrids


def measure_hybrid(cells: list[Cell]) -> Iterator[None]:
    """Final losses by problem, method and seed."""
    from benchmarks.parts import rugged

    for name, problem in rugged.problems().items():
        cell = cell_of(cells, part="hybrid", problem=name, title=problem.title)
        cell["budget"] = problem.budget
        runs = cell.setdefault("runs", {})
        for method, make in rugged.contenders(problem).items():
            if method not in runs:
                runs[method] = rugged.ends(problem, make, range(rugged.SEEDS))
                losses = [run["loss"] for run in runs[method]]
                print(f"{name}: {method} {statistics.median(losses):.3g}", flush=True)
                yield


def hybrid_table(cells: list[Cell]) -> tuple[list[str], list[list[str]]]:
    """Medians and quartiles of the final losses, and whether the hybrid's are smaller by chance."""
    import numpy as np
    import scipy.stats

    headings = ["problem", "method", "evaluations", "final loss: median (quartiles)"]
    headings += ["seeds on which the hybrid is lower", "p"]
    rows = []
    for cell in cells:
        if cell["part"] != "hybrid" or HYBRID not in cell["runs"]:
            continue
        best = np.array([run["loss"] for run in cell["runs"][HYBRID]])
        for method, runs in cell["runs"].items():
            losses = np.array([run["loss"] for run in runs])
            low, middle, high = np.quantile(losses, [0.25, 0.5, 0.75])
            row = [cell["title"], method, f"{np.median([r['evaluations'] for r in runs]):,.0f}"]
            row.append(f"{middle:.3g} ({low:.3g} to {high:.3g})")
            if method == HYBRID:
                row += ["", ""]
            else:
                test = scipy.stats.wilcoxon(best, losses, alternative="less")
                row += [f"{int(np.sum(best < losses))} of {len(best)}", f"{test.pvalue:.2g}"]
            rows.append(row)
    return headings, rows


# ---------------------------------------------------------------------- Bayesian optimisation


def measure_bayes(cells: list[Cell]) -> Iterator[None]:
    """Our regrets by function and seed; the peer's are on record."""
    from benchmarks.parts import bayes
    from benchmarks.parts.black_boxes import double_precision
    from benchmarks.parts.boxes import BOXES

    double_precision()
    for name, box in BOXES.items():
        cell = cell_of(cells, part="bayes", function=name, title=box.title)
        found = cell.setdefault("regrets", [])
        while len(found) < BAYES_SEEDS:
            found.append([float(f"{r:.6g}") for r in bayes.ours(box, len(found))])
            print(f"{name} {len(found) - 1}: {found[-1][-1]:.3g}", flush=True)
            yield


def regrets(cells: list[Cell]) -> dict[str, Any]:
    """By function and method, shape (seeds, evaluations)."""
    import numpy as np

    from benchmarks.parts import bayes

    own = {c["function"]: np.array(c["regrets"]) for c in cells if c["part"] == "bayes"}
    return {
        name: {**bayes.curves(name, range(len(ours)), ours_too=False), bayes.OURS: ours}
        for name, ours in own.items()
        if len(ours)
    }


def bayes_table(cells: list[Cell]) -> tuple[list[str], list[list[str]]]:
    """Medians, worst runs and chance."""
    from benchmarks.parts import bayes

    found = regrets(cells)
    return list(bayes.HEADINGS), [list(r) for n, f in found.items() for r in bayes.rows(n, f)]


# ---------------------------------------------------------------------- hard thresholds


def measure_thresholds(cells: list[Cell]) -> Iterator[None]:
    """Accuracies on test data by method."""
    from benchmarks.parts import thresholds

    cell = cell_of(cells, part="thresholds", title=thresholds.TITLE)
    cell["evaluations"] = thresholds.EVALUATIONS
    found = cell.setdefault("accuracies", {})
    for method, (make, losses) in thresholds.contenders().items():
        if method not in found:
            found[method] = thresholds.accuracies(make, losses, 3)
            print(f"thresholds: {method} {found[method]}", flush=True)
            yield


def thresholds_table(cells: list[Cell]) -> tuple[list[str], list[list[str]]]:
    """Accuracies of all seeds."""
    rows = [
        [method, ", ".join(f"{100 * a:.1f} %" for a in accuracies)]
        for cell in cells
        if cell["part"] == "thresholds"
        for method, accuracies in cell["accuracies"].items()
    ]
    return ["method", "right on test digits, by seed"], rows


MEASURES = {
    "cma_es": measure_cma_es,
    "hybrid": measure_hybrid,
    "bayes": measure_bayes,
    "thresholds": measure_thresholds,
}
TABLES = {
    "cma_es": cma_es_table,
    "hybrid": hybrid_table,
    "bayes": bayes_table,
    "thresholds": thresholds_table,
}


if __name__ == "__main__":
    main()
