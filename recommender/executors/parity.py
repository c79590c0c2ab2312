"""Parity: whether two backends give the same losses for one model and data."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from recommender.budget import FORWARD, Budget
from recommender.candidates import hurdle
from recommender.errors import ProbeFailed
from recommender.population import Population, open_population
from recommender.problem import Problem

STEPS = 3
# Three steps in float32: summing in another order was seen to change losses by 1e-6 of them.
TOLERANCE = 1e-3

Seen = dict[str, list[float]]


def seen(population: Population) -> Seen:
    """What an engine shows: a loss in inference mode, and those of the hurdle's first steps."""
    trunk = population.trunk(hurdle().setting)
    first = population.validate_block(population.start(trunk.setting), 0)
    # Backends that refuse a loss without a gradient are compared in inference mode only.
    with contextlib.suppress(ProbeFailed):
        trunk.advance(STEPS, "parity")
    return {"inference": [first], "training": trunk.losses[:STEPS]}


def seen_here(problem: Problem) -> Seen:
    """The same in this process, on its backend; the model stays as it is."""
    budget = Budget("thorough", max(100, problem.full_steps))
    return seen(open_population(problem, [hurdle().setting], budget))


def disagreement(problem: Problem, here: Mapping[str, Any], there: Mapping[str, Any]) -> str | None:
    """Where two engines differ by more than rounding, in words, or None.

    A model that draws random numbers draws others on another backend: it is compared in inference
    mode only.
    """
    draws = len(problem.model.variables) > len(problem.model.weights)
    for mode in ("inference",) if draws else ("inference", "training"):
        ours, theirs = (np.asarray(side[mode], np.float64) for side in (here, there))
        count = min(len(ours), len(theirs))
        ours, theirs = ours[:count], theirs[:count]
        if not _close(ours, theirs):
            shown = " and ".join(", ".join(f"{v:.6g}" for v in side) for side in (ours, theirs))
            return f"the losses in {mode} mode differ: {shown}."
    return None


def block_price(population: Population) -> float:
    """One validation block, in gradient evaluations."""
    return FORWARD * population.block_rows / population.problem.batch_size


def _close(ours: Any, theirs: Any) -> bool:
    finite = np.isfinite(ours)
    if not np.array_equal(finite, np.isfinite(theirs)):
        return False
    return bool(np.allclose(ours[finite], theirs[finite], rtol=TOLERANCE, atol=1e-6))
