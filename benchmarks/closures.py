"""What optimizers that evaluate the loss again are worth on recorded tasks, against Keras' default.

    KERAS_BACKEND=jax python -m benchmarks.closures [--tasks NAME ...] [--json FILE]

Every recorded task of at most 2 600 parameters and 20 000 training examples, whose full training
costs at least 40 passes, is trained by each method on all examples as one minibatch, from the first
weights that the table's seeds 0 and 1 had, for at most the cost of one full training and a minute.
The optimizers count what they evaluate; validations look at the race's blocks and are booked apart.
Results go on where they were interrupted.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.parts import machine, results

SEEDS = (0, 1)
# A task is small enough with at most so many parameters and training examples, and where a full
# training costs at least so many gradients over all examples.
MOST_PARAMETERS, MOST_ROWS, LEAST_PASSES = 2_600, 20_000, 40
MOST_SECONDS = 60.0
# Shares of the full training at which the best so far is kept with its validation blocks.
SHARES = (0.04, 0.15, 0.6, 1.0)
Cell = dict[str, Any]


def contenders() -> dict[str, Any]:
    """The settings by the name that tables give them."""
    from recommender.knowledge.contenders import CONTENDERS

    return {one.setting.class_name: one.setting for one in CONTENDERS if one.kind != "no_gradient"}


def main(arguments: list[str] | None = None) -> None:
    """Measures what is missing, and keeps the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tasks", nargs="+", help="names; all that are small enough")
    parser.add_argument("--methods", nargs="+")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--json", type=Path, metavar="FILE", help="keeps the figures here")
    given = parser.parse_args(arguments)
    machine.hold_to_one_core()
    report: dict[str, Any] = {"script": "closures", "backend": machine.backend(), "cells": []}
    if given.json and given.json.exists():
        report = json.loads(given.json.read_text())
    report["machine"] = machine.describe()
    try:
        for cell in measured(
            report["cells"],
            given.tasks or small(),
            given.methods or list(contenders()),
            given.seeds,
        ):
            report["cells"].append(cell)
            results.save(report, given.json)
            sys.stdout.write(line(cell) + "\n")
            sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on from here")
    from benchmarks.parts import contests

    report["tasks"] = contests.facts(report["cells"])
    report["contests"] = contests.contests(report["cells"])
    report["left_out"] = [name for name in small() if name not in report["tasks"]]
    results.save(report, given.json)


def small() -> list[str]:
    """The tasks that are small enough, the cheapest first."""
    from recommender.knowledge import contenders
    from recommender.knowledge.table import truth

    found = []
    for record in truth().values():
        facts = record.facts["description"]
        few = facts["parameters"] <= MOST_PARAMETERS and facts["samples"] <= MOST_ROWS
        if few and contenders.passes(facts) >= LEAST_PASSES:
            found.append(record)
    return [record.name for record in sorted(found, key=lambda r: r.facts["core_seconds"])]


def measured(
    cells: Sequence[Cell], names: Sequence[str], methods: Sequence[str], seeds: Sequence[int]
) -> Iterator[Cell]:
    """The cells that are missing, task by task."""
    done = {(c["task"], c["method"], c["seed"]) for c in cells}
    for name in names:
        for seed in seeds:
            missing = [m for m in methods if (name, m, seed) not in done]
            if missing:
                yield from _on_task(name, seed, missing)


def _on_task(name: str, seed: int, methods: Sequence[str]) -> Iterator[Cell]:
    import jax

    from recommender import trials
    from recommender.budget import Budget
    from recommender.candidates import hurdle
    from recommender.knowledge import tasks
    from recommender.population import open_population
    from recommender.problem import build
    from recommender.request import checked

    jax.clear_caches()
    problem = build(checked(tasks.find(name).request(seed, "thorough")))
    full = problem.full_steps
    for method in methods:
        budget = Budget("thorough", full, MOST_SECONDS)
        budget.limit = 2.0 * full  # room for a dear last step
        population = open_population(problem, [hurdle().setting], budget)
        cell: Cell = {"task": name, "method": method, "seed": seed}
        trial = trials.run(population, contenders()[method], full)
        if trial.best is None or trial.points[-1].steps == 0:
            yield cell | {"failed": trial.stopped}
        else:
            yield cell | figures(trial, full)


def figures(trial: Any, full: int) -> Cell:
    """A trial as plain numbers; costs are shares of the full training."""
    curve, best = [], math.inf
    for point in trial.points:
        if point.loss < best:
            best = point.loss
            curve.append([point.steps, _digits(point.cost / full), _digits(point.loss)])
    at = {}
    for share in SHARES:
        within = [p for p in trial.points if p.cost <= share * full and math.isfinite(p.loss)]
        if within:
            found = min(within, key=lambda p: p.loss)
            at[str(share)] = {
                "steps": found.steps,
                "cost": _digits(found.cost / full),
                "blocks": [_digits(b) for b in found.blocks],
            }
    return {
        "rows": trial.rows,
        "first": _digits(trial.points[0].loss),
        "curve": curve,
        "at": at,
        "steps": trial.points[-1].steps,
        "cost": _digits(trial.cost / full),
        "stopped": trial.stopped,
        "converged": trial.converged,
        "seconds": round(trial.seconds, 1),
    }


def _digits(value: float) -> float:
    return float(f"{value:.5g}")


def line(cell: Cell) -> str:
    """A cell in a few words."""
    if "failed" in cell:
        return f"{cell['task']} {cell['seed']} {cell['method']}: {cell['failed']}"
    from recommender.knowledge.table import truth

    record = truth()[cell["task"]]
    reached = next((c for _, c, loss in cell["curve"] if loss <= record.target), math.inf)
    ratio = reached * record.full_steps / record.default_steps
    best = cell["curve"][-1]
    return (
        f"{cell['task']} {cell['seed']} {cell['method']}: {best[2]:.4g} at {best[1]:.0%} "
        f"(default {record.target:.4g}, time ratio {ratio:.2f}), {cell['cost']:.0%} spent in "
        f"{cell['seconds']} s: {cell['stopped']}"
    )


if __name__ == "__main__":
    main()
