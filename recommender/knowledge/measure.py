"""Trains the listed settings at full length on real tasks and writes them into table.json.

    KERAS_BACKEND=jax python -m recommender.knowledge.measure [TASK ...]

Tasks are the demo's; with `--tasks FILE.py --epochs NAME=N ...` those of a Python file whose
`TASKS` maps names to objects with `load()`, `build_model(seed)`, `loss` and `batch_size`. The
shipped table holds the five demo tasks and eight of the project's development tasks, one training
each, seed 0, measured on a shared machine with two cores (Keras 3.15.1, JAX 0.10.2).
"""

from __future__ import annotations

import argparse
import json
import runpy
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from recommender import demo_tasks
from recommender.budget import Budget
from recommender.population import Population, Trunk, open_population
from recommender.problem import build
from recommender.request import Request, checked
from recommender.settings import Setting

TABLE = Path(__file__).with_name("table.json")
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
DEFAULT = SETTINGS[1]
# Shares of the full length at which a copy is cooled down and validated, as probes are.
RUNGS = (0.01, 0.02)
COOLDOWN = 0.25
# A curve has this many equal steps, and early points where losses move fastest.
POINTS = 60
EARLY = (0.005, 0.01, 0.02, 0.04, 0.08)

Curve = list[tuple[int, float]]


def measure(request: Request, settings: Iterable[Setting] = SETTINGS) -> dict[str, Any]:
    """One task's record.

    Args:
        request: Model, data and length.
        settings: What to train; the default among them.

    Returns:
        Full length, loss before training (of the first minibatch), and per setting the probes'
        validation blocks and, constant and with a late cooldown, the best validation loss and the
        step that first reaches the default's best.
    """
    problem = build(checked(request))
    budget = Budget("thorough", problem.full_steps)
    budget.limit = float("inf")
    population = open_population(problem, list(settings), budget)
    curves = {setting: _curves(population, setting) for setting in settings}
    target = min(loss for _, loss in curves[DEFAULT][1])
    rows = {}
    for setting, (rungs, constant, cooled) in curves.items():
        rows[setting.label] = {
            "method": setting.method,
            "learning_rate": setting.learning_rate,
            "config": dict(setting.config),
            "rungs": rungs,
            "constant": _summary(constant, target),
            "cooldown": _summary(cooled or constant, target),
        }
    return {
        "full_steps": problem.full_steps,
        "initial_loss": float(f"{population.trunk(DEFAULT).losses[0]:.6g}"),
        "settings": rows,
    }


def _summary(curve: Curve, target: float) -> dict[str, Any] | None:
    if not curve:
        return None
    best = min(loss for _, loss in curve)
    return {
        "best": float(f"{best:.6g}"),
        "reaches_default": next((step for step, loss in curve if loss <= target), None),
    }


def _curves(
    population: Population, setting: Setting
) -> tuple[dict[str, list[float]], Curve, Curve]:
    full = population.problem.full_steps
    trunk = population.trunk(setting)
    stops = {max(10, round(full * share)): share for share in RUNGS}
    early = {max(10, round(full * share)) for share in EARLY}
    grid = sorted({round(full * (i + 1) / POINTS) for i in range(POINTS)} | early)
    constant: Curve = []
    cooled: Curve = []
    rungs: dict[str, list[float]] = {}
    for step in grid:
        if step > full * (1 - COOLDOWN) and not cooled:
            cooled = [*constant, *_cooldown(population, trunk, full)]
        trunk.advance(step, "trunk")
        if trunk.diverged_at is not None:
            break
        constant.append((step, _validated(population, trunk.state)))
        if step in stops:
            state = trunk.cooled(max(3, round(step * 0.25)), "branch")
            if state is not None:
                blocks = population.validate(state, "validation")
                rungs[str(stops[step])] = [float(f"{b:.6g}") for b in blocks]
    return rungs, constant, cooled


def _cooldown(population: Population, trunk: Trunk, full: int) -> Curve:
    """The last quarter on the way to 0, from where the trunk stands."""
    state, first = trunk.state, trunk.step
    length = full - trunk.step
    found: Curve = []
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
        found.append((first + begin + len(losses), _validated(population, state)))
    return found


def _validated(population: Population, state: Any) -> float:
    return float(population.validate(state, "validation").mean())


def _requests(names: list[str], file: str | None, epochs: dict[str, int]) -> dict[str, Request]:
    if file is None:
        found = {}
        for name in names or list(demo_tasks.TASKS):
            task = demo_tasks.find(name)
            x, y, x_val, y_val = task.load()
            found[name] = Request(
                task.model(0), x, y, (x_val, y_val), loss=task.loss(),
                epochs=task.epochs, batch_size=task.batch_size, tier="thorough",
            )  # fmt: skip
        return found
    tasks = runpy.run_path(file)["TASKS"]
    found = {}
    for name, length in epochs.items():
        other = tasks[name]
        x, y, x_val, y_val = other.load()
        found[name] = Request(
            other.build_model(0), x, y, (x_val, y_val), loss=other.loss,
            epochs=length, batch_size=other.batch_size, tier="thorough",
        )  # fmt: skip
    return found


def main() -> None:
    """Measure the named tasks and put their records into the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="demo tasks; all if none is named")
    parser.add_argument("--tasks", help="a Python file with other tasks")
    parser.add_argument("--epochs", nargs="*", default=[], help="NAME=N for tasks of that file")
    given = parser.parse_args()
    epochs = {name: int(n) for name, _, n in (pair.partition("=") for pair in given.epochs)}
    table = json.loads(TABLE.read_text(encoding="utf-8")) if TABLE.exists() else {}
    for name, request in _requests(given.names, given.tasks, epochs).items():
        began = time.monotonic()
        table[name] = measure(request)
        TABLE.write_text(json.dumps(table, separators=(",", ":")), encoding="utf-8")
        sys.stderr.write(f"{name}: {time.monotonic() - began:.0f} s\n")


if __name__ == "__main__":
    main()
