"""Trains the listed settings at full length on the demo tasks and writes the table of curves.

Run as `python -m recommender.knowledge.measure OUT.json [TASK ...]`; every number that the
decision rule was chosen by comes from such a table.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from recommender import demo_tasks
from recommender.budget import Budget
from recommender.population import Population, open_population
from recommender.problem import build
from recommender.request import Request, checked
from recommender.settings import Setting

MOMENTUM = (("momentum", 0.9), ("nesterov", True))
SETTINGS = (
    Setting("adam", 3e-4),
    Setting("adam", 1e-3),
    Setting("adam", 3e-3),
    Setting("adam", 1e-2),
    Setting("adam", 3e-2),
    Setting("sgd", 1e-2, MOMENTUM),
    Setting("sgd", 1e-1, MOMENTUM),
    Setting("rmsprop", 3e-3),
    Setting("adamw", 3e-3, (("weight_decay", 0.1),)),
)
RUNGS = (0.005, 0.01, 0.02, 0.04, 0.08)
COOLDOWN = 0.25
POINTS = 60


def measure(request: Request, settings: Iterable[Setting] = SETTINGS) -> dict[str, Any]:
    """Whole curves of every setting, constant and with a late cooldown, and its short probes."""
    problem = build(checked(request))
    budget = Budget("thorough", problem.full_steps)
    budget.limit = float("inf")
    settings = list(settings)
    population = open_population(problem, settings, budget)
    rows = {setting.label: _curves(population, setting) for setting in settings}
    return {"full_steps": problem.full_steps, "settings": rows}


def _curves(population: Population, setting: Setting) -> dict[str, Any]:
    full = population.problem.full_steps
    trunk = population.trunk(setting)
    stops = {max(10, round(full * f)): f for f in RUNGS}
    grid = sorted({round(full * (i + 1) / POINTS) for i in range(POINTS)} | set(stops))
    constant: list[tuple[int, list[float]]] = []
    rungs: dict[str, list[float]] = {}
    cooled: list[tuple[int, list[float]]] = []
    for step in grid:
        if step > full * (1 - COOLDOWN) and not cooled:
            cooled = [*constant, *_cooldown(population, trunk, full)]
        trunk.advance(step, "trunk")
        if trunk.diverged_at is not None:
            break
        constant.append((step, population.validate(trunk.state, "validation").tolist()))
        if step in stops:
            state = trunk.cooled(max(3, round(step * 0.25)), "branch")
            if state is not None:
                rungs[str(stops[step])] = population.validate(state, "validation").tolist()
    return {
        "learning_rate": setting.learning_rate,
        "diverged_at": trunk.diverged_at,
        "first_losses": trunk.losses[:40],
        "constant": constant,
        "cooldown": cooled,
        "rungs": rungs,
    }


def _cooldown(population: Population, trunk: Any, full: int) -> list[tuple[int, list[float]]]:
    """The last quarter on the way to 0, from where the trunk stands."""
    state, first = trunk.state, trunk.step
    length, found = full - trunk.step, []
    rates = trunk.setting.learning_rate * (1 - np.arange(length) / length)
    rows = population.problem.batch_indices(first, length)
    every = max(1, full // POINTS)
    for begin in range(0, length, every):
        part = slice(begin, begin + every)
        state, losses = population.train(
            state, rates[part].astype(np.float32), rows[part], "cooldown"
        )
        if not np.isfinite(losses).all():
            break
        step = first + begin + len(losses)
        found.append((step, population.validate(state, "validation").tolist()))
    return found


def main() -> None:
    """Measure the named demo tasks, or all, and write one JSON file."""
    out, names = Path(sys.argv[1]), sys.argv[2:] or list(demo_tasks.TASKS)
    table = json.loads(out.read_text()) if out.exists() else {}
    for name in names:
        task, began = demo_tasks.find(name), time.monotonic()
        x, y, x_val, y_val = task.load()
        request = Request(
            task.model(0), x, y, (x_val, y_val), loss=task.loss(),
            epochs=task.epochs, batch_size=task.batch_size, tier="thorough",
        )  # fmt: skip
        table[name] = measure(request)
        out.write_text(json.dumps(table))
        sys.stderr.write(f"{name}: {time.monotonic() - began:.0f} s\n")


if __name__ == "__main__":
    main()
