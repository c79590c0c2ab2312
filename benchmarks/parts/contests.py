"""What the recommender would have made of recorded trials, beside what its race answers alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.parts import judge
from recommender import rehearsal, trials
from recommender.candidates import hurdle
from recommender.contest import lowest
from recommender.knowledge import contenders, grid, prior
from recommender.knowledge.replay import Bench
from recommender.knowledge.score import DEFAULT, excess, mean_best, oracle_loss, score
from recommender.knowledge.table import Record, truth

Cell = dict[str, Any]
TIERS = ("quick", "standard", "thorough")


def facts(cells: Sequence[Cell]) -> dict[str, Any]:
    """Per task what trials are compared with; and each cell gets its figures of merit."""
    found = {}
    for name in dict.fromkeys(cell["task"] for cell in cells):
        record = truth()[name]
        description = record.facts["description"]
        found[name] = {
            "parameters": description["parameters"],
            "passes": round(contenders.passes(description), 1),
            "test": judge.is_test(record),
            "target": _digits(record.target),
            "oracle": _digits(oracle_loss(record)),
            "oracle_excess": _digits(excess(record, oracle_loss(record))),
        }
    for cell in cells:
        if "failed" not in cell:
            record = truth()[cell["task"]]
            cell["excess"] = _digits(_excess(record, cell["curve"][-1][2], cell["seed"]))
            cell["time_ratio"] = _time_ratio(record, cell)
            cell["oracle_cost"] = _reached(cell, oracle_loss(record))
    return found


def contests(cells: Sequence[Cell]) -> list[Cell]:
    """Each tier's contest on each task that a description speaks for, replayed on both seeds."""
    development = [r for r in truth().values() if not judge.is_test(r)]
    priors: dict[str, Any] = {}
    found = []
    for cell in cells:
        record = truth()[cell["task"]]
        description = record.facts["description"]
        for tier in TIERS:
            first = contenders.plausible(description, tier)[:1]
            if "failed" in cell or not first or first[0].setting.class_name != cell["method"]:
                continue
            if record.family not in priors:
                others = [r for r in development if r.family != record.family]
                priors[record.family] = prior.grow(others)
            one = _contest(record, cell, tier, priors[record.family])
            if one is not None:
                found.append(one)
    return found


def _contest(record: Record, cell: Cell, tier: str, known: prior.Prior) -> Cell | None:
    share, seed = contenders.RESERVE[tier], cell["seed"]
    bench = Bench(record, seed, tier)
    bench.budget.limit -= share * record.full_steps
    decision = rehearsal.replayed(bench, known, tier)
    at = cell["at"].get(str(share))
    if at is None or not decision.share:
        return None
    horizon = min(grid.HORIZONS, key=lambda h: abs(h - decision.share))
    settings = (decision.candidate.setting, hurdle().setting)
    rungs = [record.branch(setting, seed, horizon) for setting in settings]
    done = cell["cost"] <= share
    overfits = done and cell["stopped"] == trials.RISES
    convex = record.facts["description"]["depth"] == 1
    advised = not overfits and lowest(
        at["blocks"], [list(r) for r in rungs if r is not None], convex=convex
    )
    final = at if done else cell["at"]["1.0"]
    choice = decision.candidate.choice
    raced = score(record, choice, [seed])
    return {
        "task": record.name,
        "seed": seed,
        "tier": tier,
        "test": judge.is_test(record),
        "advised": advised,
        "converged": done and cell["converged"],
        "trial_excess": _digits(_excess(record, float(np.mean(final["blocks"])), seed)),
        "race_excess": _digits(raced.excess),
        "trial_time_ratio": _time_ratio(record, cell),
        "race_time_ratio": _finite(raced.time_ratio),
    }


def _excess(record: Record, loss: float, seed: int) -> float:
    """Against the default from the same first weights."""
    return excess(record, loss, mean_best(record, DEFAULT, [seed]))


def _reached(cell: Cell, target: float) -> float | None:
    """Share of a full training's cost at which a loss is reached; None is never."""
    return next((cost for _, cost, loss in cell["curve"] if loss <= target), None)


def _time_ratio(record: Record, cell: Cell) -> float | None:
    reached = _reached(cell, record.target)
    if reached is None:
        return None
    return _digits(reached * record.full_steps / record.default_steps)


def _finite(value: float) -> float | None:
    return _digits(value) if math.isfinite(value) else None


def _digits(value: float) -> float:
    return float(f"{value:.4g}")
