"""How often each trigger of `recommender.illnesses` speaks, and what its mend does to the loss.

    python -m benchmarks.mending --json FILE [NAME ...]

On each recorded task the default and the blind choice are raced to a few hundred steps, all
illnesses are asked, and every mend that a short training can show is tested beside the unchanged
task: same weights, same batches, same rule, judged by the original loss on the same validation
blocks. A task that the file holds already is not measured again.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.parts import machine, results

Cell = dict[str, Any]
# Shares of the full length at which the race validates; mends are tested at the last one that has
# at most so many steps.
SHARES, MOST_STEPS = (0.02, 0.04, 0.08, 0.16), 1200
# An effect on fewer tasks says little.
FEW = 3


def measured(name: str) -> Cell:
    """What is seen on one task, and what its mends do.

    Args:
        name: Of the task.
    """
    from recommender.budget import Budget
    from recommender.candidates import hurdle
    from recommender.description import describe
    from recommender.illnesses import illnesses
    from recommender.knowledge import grid, tasks
    from recommender.population import open_population
    from recommender.probes import ProbeResult, Rung
    from recommender.problem import build
    from recommender.request import checked
    from recommender.settings import Setting

    began, task = time.monotonic(), tasks.find(name)
    problem = build(checked(task.request(0, "thorough")))
    budget = Budget("thorough", 100 * problem.full_steps)
    default, advised = hurdle().setting, Setting("adam", 3e-3)
    population = open_population(problem, [default, advised], budget)
    pairs = [pair for share, pair in grid.horizons(problem.full_steps).items() if share in SHARES]
    pairs = [pair for pair in pairs if pair[0] <= MOST_STEPS] or pairs[:1]
    evidence = _evidence(problem, describe(problem), population, default, (default, advised))
    shown = {
        setting: [Rung(pair[0], population.rung(setting, *pair)) for pair in pairs]
        for setting in (default, advised)
    }
    raced = [
        ProbeResult(
            setting, tuple(rungs), tuple(population.trunk(setting).losses),
            population.trunk(setting).diverged_at, "",
        )
        for setting, rungs in shown.items()
    ]  # fmt: skip
    evidence = _after(evidence, population, raced, default)
    cell: Cell = {
        "task": name,
        "architecture": task.architecture,
        "traits": list(task.traits),
        "step": pairs[-1][0],
        "asked": [],
        "findings": [],
        "mends": [],
    }
    for illness in illnesses():
        seen = _examined(illness, evidence)
        cell["asked"].append(illness.code)
        if seen is None:
            continue
        cell["findings"].append({"code": illness.code, "value": _plain(seen.value)})
        for mend in illness.mends(evidence, seen):
            if mend.testable:
                blocks = shown[advised][-1].blocks
                cell["mends"].append(_tested(problem, mend, advised, pairs[-1], budget, blocks))
    cell["seconds"] = round(time.monotonic() - began, 1)
    return cell


def _evidence(
    problem: Any, description: Any, population: Any, default: Any, raced: Sequence[Any]
) -> Any:
    from recommender.illnesses import Evidence
    from recommender.measurements import Measurements

    return Evidence(problem, description, Measurements(population, default, raced))


def _after(evidence: Any, population: Any, raced: Sequence[Any], default: Any) -> Any:
    import dataclasses

    from recommender.aftermath import Aftermath

    start = evidence.measured
    race = Aftermath(population, raced, default, start.initial_loss, start.allowance)
    return dataclasses.replace(evidence, race=race)


def _examined(illness: Any, evidence: Any) -> Any:
    from recommender.measurements import Skipped

    try:
        return illness.examine(evidence)
    except Skipped:
        return None


def _tested(
    problem: Any, mend: Any, setting: Any, length: tuple[int, int], budget: Any, blocks: Any
) -> Cell:
    from recommender.mending import measured_effect

    effect = measured_effect(problem, mend, setting, length, budget, unchanged=blocks)
    found: Cell = {"code": mend.code, "change": mend.change}
    if effect is None:
        return found | {"effect": None, "verdict": "does not fit the model"}
    verdict = "helps" if effect.helps else "harms" if effect.harms else "no effect"
    return found | {
        "effect": _plain(effect.relative),
        "error": _plain(effect.error),
        "verdict": verdict,
    }


def _plain(value: float | None) -> float | None:
    return float(f"{value:.4g}") if value is not None and math.isfinite(value) else None


# ---------------------------------------------------------------------- the table


def triggers(cells: Sequence[Cell]) -> list[list[str]]:
    """A row per illness: how many tasks it was seen on, and which."""
    codes = sorted({code for cell in cells for code in cell["asked"]})
    rows = []
    for code in codes:
        on = [c["task"] for c in cells if code in {f["code"] for f in c["findings"]}]
        named = ", ".join(on[:4]) + (f" and {len(on) - 4} more" if len(on) > 4 else "")
        rows.append([f"`{code}`", f"{len(on)} of {len(cells)}", named])
    return rows


def effects(cells: Sequence[Cell]) -> list[list[str]]:
    """A row per illness and change: median change of the loss, and on how many tasks it helps."""
    found: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        for mend in cell["mends"]:
            found.setdefault((mend["code"], general(mend["change"])), []).append(mend)
    rows = []
    for (code, change), mends in sorted(found.items()):
        known = [m for m in mends if m["verdict"] != "does not fit the model"]
        if not known:
            continue
        # A training that broke has no number: it counts as harm, and above all others.
        middle = statistics.median(
            [math.inf if m["effect"] is None else m["effect"] for m in known]
        )
        counts = [str(sum(m["verdict"] == v for m in known)) for v in VERDICTS]
        shown = f"{middle:+.1%}" if math.isfinite(middle) else "broke"
        rows.append([f"`{code}`", change, str(len(known)), shown, *counts])
    return rows


VERDICTS = ("helps", "no effect", "harms")
TRIGGER_HEADINGS = ["illness", "seen on", "tasks"]
EFFECT_HEADINGS = ["illness", "change", "tasks", "median change of the loss", *VERDICTS]


def general(change: str) -> str:
    """A change without the numbers of the task."""
    if "batches of" in change:
        bare = change.rstrip(".").rpartition(": ")[2]
        return re.sub(r"\d[\d.]*\b", "n", bare).capitalize()
    return change.split("=", maxsplit=1)[0] if "global_clipnorm" in change else change.rstrip(".")


def main() -> None:
    """Measure tasks that the file does not hold yet."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="tasks; all that can be loaded")
    parser.add_argument("--json", type=Path, help="where the figures go, kept for the pages")
    given = parser.parse_args()
    machine.hold_to_one_core()
    backend = machine.backend()
    old = json.loads(given.json.read_text("utf-8")) if given.json and given.json.exists() else {}
    cells: list[Cell] = list(old.get("cells", []))
    known = {cell["task"] for cell in cells}
    for name in _names(given.names):
        if name in known:
            continue
        cells.append(measured(name))
        sys.stderr.write(f"{name}: {_line(cells[-1])}\n")
        report = {
            "script": "mending",
            "backend": backend,
            "machine": machine.describe(),
            "cells": cells,
        }
        results.save(report, given.json)


def _names(given: Iterable[str]) -> list[str]:
    from recommender.knowledge import tasks

    chosen = [tasks.find(name) for name in given] or list(tasks.all_tasks().values())
    able, missing = tasks.loadable(chosen)
    for name, error in missing.items():
        sys.stderr.write(f"{name} left out: {error}\n")
    return [task.name for task in able]


def _line(cell: Cell) -> str:
    seen = ", ".join(f["code"] for f in cell["findings"]) or "nothing"
    tested = "; ".join(f"{m['code']} {m['verdict']} {m['effect']}" for m in cell["mends"])
    return f"{seen} | {tested} ({cell['seconds']} s)"


if __name__ == "__main__":
    main()
