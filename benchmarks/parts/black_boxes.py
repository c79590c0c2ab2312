"""Functions without gradients, and searches that minimise them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.parts import machine

# As Hansen's comparisons: the first step size is about a third of the way to the minimum.
TARGET = 1e-9


@dataclasses.dataclass(frozen=True)
class Function:
    """A function of a vector with its usual start.

    Attributes:
        title: What people call it.
        values: From points, shape (points, size), to losses, shape (points,).
        start: Every entry of the first point.
        sigma: First step size.
        minimum: Every entry of the minimum, whose loss is 0.
        dimensions: Those to compare in.
        population: Points per generation in a dimension; None are the methods' own.
        budget: Evaluations after which a run has failed, in a dimension.
    """

    title: str
    values: Callable[[np.ndarray], np.ndarray]
    start: float
    sigma: float
    minimum: float
    dimensions: tuple[int, ...]
    population: Callable[[int], int | None]
    budget: Callable[[int], int]


def double_precision() -> None:
    """float64 throughout, which JAX has only where it is asked for."""
    if machine.backend() == "jax":
        import jax

        jax.config.update("jax_enable_x64", True)


def sphere(x: np.ndarray) -> np.ndarray:
    """All directions alike."""
    return np.sum(x * x, axis=1)


def ellipsoid(x: np.ndarray) -> np.ndarray:
    """A condition number of a million, in turned axes."""
    turned = x @ _rotation(x.shape[1])
    return np.sum(10 ** np.linspace(0, 6, x.shape[1]) * turned * turned, axis=1)


@functools.cache
def _rotation(size: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(size).normal(size=(size, size)))[0]


def rosenbrock(x: np.ndarray) -> np.ndarray:
    """A bent valley."""
    a, b = x[:, :-1], x[:, 1:]
    return np.sum(100 * (b - a * a) ** 2 + (1 - a) ** 2, axis=1)


def rastrigin(x: np.ndarray) -> np.ndarray:
    """A grid of local minima in a bowl."""
    return np.sum(x * x - 10 * np.cos(2 * np.pi * x) + 10, axis=1)


FUNCTIONS = {
    "sphere": Function(
        "Sphere", sphere, 3.0, 1.0, 0.0, (2, 5, 10, 20, 40), lambda n: None, lambda n: 3000 * n
    ),
    "ellipsoid": Function(
        "Ellipsoid, turned, condition 1e6",
        ellipsoid,
        3.0,
        1.0,
        0.0,
        (2, 5, 10, 20, 40),
        lambda n: None,
        lambda n: 10_000 * n,
    ),
    "rosenbrock": Function(
        "Rosenbrock",
        rosenbrock,
        0.0,
        0.5,
        1.0,
        (2, 5, 10, 20, 40),
        lambda n: None,
        lambda n: 20_000 * n,
    ),
    # Populations with which the global minimum is found often, but not always.
    "rastrigin": Function(
        "Rastrigin",
        rastrigin,
        3.0,
        2.0,
        0.0,
        (2, 5, 10, 20, 40),
        lambda n: {2: 20, 5: 60, 10: 120, 20: 250, 40: 600}[n],
        lambda n: 20_000 * n,
    ),
}


def run_ours(name: str, size: int, optimizer: Any, seed: int) -> tuple[int | None, float]:
    """Evaluations until the target, None if it was not reached; and the best loss."""
    function = FUNCTIONS[name]
    optimizer.start(np.full(size, function.start), seed)
    told, best = 0, np.inf
    while told < function.budget(size):
        losses = function.values(optimizer.ask())
        hit = np.flatnonzero(losses <= TARGET)
        if len(hit):
            return told + int(hit[0]) + 1, float(losses[hit[0]])
        optimizer.tell(losses)
        told, best = told + len(losses), min(best, float(losses.min()))
        if optimizer.verdict(1)[0] is not None:
            break
    return None, best


def run_cmaes(name: str, size: int, seed: int) -> tuple[int | None, float]:
    """The same by cmaes."""
    import cmaes

    function = FUNCTIONS[name]
    search = cmaes.CMA(
        mean=np.full(size, function.start),
        sigma=function.sigma,
        seed=seed + 1,
        population_size=function.population(size),
    )
    told, best = 0, np.inf
    while told < function.budget(size):
        points = np.array([search.ask() for _ in range(search.population_size)])
        losses = function.values(points)
        hit = np.flatnonzero(losses <= TARGET)
        if len(hit):
            return told + int(hit[0]) + 1, float(losses[hit[0]])
        search.tell(list(zip(points, losses, strict=True)))
        told, best = told + len(losses), min(best, float(losses.min()))
        if search.should_stop():
            break
    return None, best


def run_cma(name: str, size: int, seed: int) -> tuple[int | None, float]:
    """The same by cma."""
    import cma

    function = FUNCTIONS[name]
    options = {"seed": seed + 1, "verbose": -9}
    if population := function.population(size):
        options["popsize"] = population
    search = cma.CMAEvolutionStrategy(np.full(size, function.start), function.sigma, options)
    told, best = 0, np.inf
    while told < function.budget(size):
        points = search.ask()
        losses = function.values(np.array(points))
        hit = np.flatnonzero(losses <= TARGET)
        if len(hit):
            return told + int(hit[0]) + 1, float(losses[hit[0]])
        search.tell(points, list(losses))
        told, best = told + len(losses), min(best, float(losses.min()))
        if search.stop():
            break
    return None, best
