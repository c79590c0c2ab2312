"""Problems with many minima, and how a hybrid and its parts do on them at equal evaluations."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

import keras_gradopt as kg
from keras_gradopt import nested

# Budgets and populations were chosen on other seeds, 100 to 104.
SEEDS = 15


class Wave(keras.layers.Layer):
    """A sum of sinusoids: amplitudes, frequencies and phases are the weights."""

    def build(self, shape: Any) -> None:
        """Twelve weights; frequencies in units of 20."""
        del shape
        self.amplitude, self.frequency, self.phase = (
            self.add_weight(shape=(4,), name=name) for name in ("amplitude", "frequency", "phase")
        )

    def call(self, t: Any) -> Any:
        """The sum at times of shape (times, 1)."""
        waves = self.amplitude * ops.sin(20.0 * self.frequency * t + self.phase)
        return ops.sum(waves, axis=-1, keepdims=True)


class Function(keras.layers.Layer):
    """A function of one vector of weights as the loss of a model; its inputs do not matter."""

    def __init__(self, function: Callable[[Any], Any], size: int) -> None:
        super().__init__()
        self._function, self._size = function, size

    def build(self, shape: Any) -> None:
        """The vector."""
        del shape
        self.point = self.add_weight(shape=(self._size,), name="point")

    def call(self, x: Any) -> Any:
        """Nothing; the function is the loss."""
        self.add_loss(self._function(ops.convert_to_tensor(self.point)))
        return 0.0 * x


@dataclasses.dataclass(frozen=True)
class Problem:
    """A model with data, and where to start.

    Attributes:
        title: What it is.
        layer: Makes the only layer.
        x: Inputs, one minibatch.
        y: Targets.
        start: From a generator to the weights to start at.
        budget: Gradient evaluations of each run.
        sigma: First step size of the search.
        population: Points of its generations.
    """

    title: str
    layer: Callable[[], keras.layers.Layer]
    x: np.ndarray
    y: np.ndarray
    start: Callable[[np.random.Generator], list[np.ndarray]]
    budget: float
    sigma: float
    population: int


def rastrigin(w: Any) -> Any:
    """A grid of minima in a bowl."""
    return ops.sum(w * w - 10 * ops.cos(2 * np.pi * w) + 10)


def griewank(w: Any) -> Any:
    """A wide bowl with thousands of shallow minima."""
    size = w.shape[0]
    waves = ops.cos(w / np.sqrt(np.arange(1, size + 1)).astype("float32"))
    return 1 + ops.sum(w * w) / 4000 - ops.prod(waves)


def levy(w: Any) -> Any:
    """Ripples across a valley."""
    u = 1 + (w - 1) / 4
    inner = (u[:-1] - 1) ** 2 * (1 + 10 * ops.sin(np.pi * u[:-1] + 1) ** 2)
    last = (u[-1] - 1) ** 2 * (1 + ops.sin(2 * np.pi * u[-1]) ** 2)
    return ops.sin(np.pi * u[0]) ** 2 + ops.sum(inner) + last


def problems() -> dict[str, Problem]:
    """The problems by name."""
    t = np.linspace(0, 1, 80, dtype="float32")[:, None]
    waves = ((1.0, 11.0, 0.3), (0.7, 23.0, 1.1), (0.5, 37.0, 2.0), (0.4, 29.0, 0.5))
    y = sum(a * np.sin(f * t + p) for a, f, p in waves).astype("float32")
    nothing = np.zeros((2, 1), "float32")

    def function(
        title: str, f: Callable, high: float, budget: float, sigma: float, population: int
    ) -> Problem:
        return Problem(
            title,
            lambda: Function(f, 10),
            nothing,
            nothing,
            lambda rng: [rng.uniform(-high, high, 10)],
            budget,
            sigma,
            population,
        )

    return {
        "waves": Problem(
            "Four sinusoids fitted to 80 points, 12 weights",
            Wave,
            t,
            y,
            lambda rng: [
                rng.uniform(0, 1, 4),
                rng.uniform(0.25, 2, 4),
                rng.uniform(0, 2 * np.pi, 4),
            ],
            3000.0,
            0.5,
            60,
        ),
        "rastrigin": function(
            "Rastrigin in 10 dimensions", rastrigin, 5.12, budget=5000, sigma=2.0, population=300
        ),
        "griewank": function(
            "Griewank in 10 dimensions", griewank, 60.0, budget=1000, sigma=24.0, population=60
        ),
        "levy": function(
            "Levy in 10 dimensions", levy, 10.0, budget=1000, sigma=4.0, population=60
        ),
    }


def contenders(problem: Problem) -> dict[str, Callable[[], Any]]:
    """The parts alone and together, and Adam at 0.05; other arguments are defaults.

    The hybrid searches for 70 % of the evaluations.
    """
    steps = round(0.7 * problem.budget / (1 + problem.population / 3))

    def search() -> Any:
        return kg.CMAES(sigma=problem.sigma, population_size=problem.population)

    return {
        "CMA-ES": search,
        "L-BFGS": kg.LBFGS,
        "Adam": lambda: kg.Adam(0.05),
        "CMA-ES, then L-BFGS": lambda: kg.Hybrid(search(), kg.LBFGS(), switch=steps),
    }


def ends(problem: Problem, make: Callable[[], Any], seeds: range) -> list[dict[str, Any]]:
    """Final losses and evaluations, by seed: one compiled model, put back to its start for each."""
    model = keras.Sequential([keras.Input(problem.x.shape[1:]), problem.layer()])
    optimizer = make()
    kg.bind(model).compile(optimizer, "mse", jit_compile=keras.backend.backend() != "torch")
    model(problem.x)
    optimizer.build(model.trainable_variables)
    at_first = [np.array(ops.convert_to_numpy(v)) for v in optimizer.variables]
    found = []
    for seed in seeds:
        model.set_weights(problem.start(np.random.default_rng(seed)))
        optimizer.set_weights(at_first)
        for one in nested.all_of(optimizer):
            if hasattr(one, "shared_variables"):
                one.shared_variables["seed"].assign(float(seed))
        spent = 0.0
        while spent < problem.budget:
            before = spent
            history = model.fit(
                problem.x, problem.y, batch_size=len(problem.x), epochs=20, verbose=0
            )
            spent = evaluations(optimizer)
            if len(history.epoch) < 20 or spent == before:
                break
        loss = float(model.evaluate(problem.x, problem.y, batch_size=len(problem.x), verbose=0))
        log = [str(line) for line in getattr(optimizer, "switch_log", list)()]
        found.append({"seed": seed, "loss": loss, "evaluations": spent, "log": log})
    return found


def evaluations(optimizer: Any) -> float:
    """What a training has cost so far, in gradients; a gradient rule takes one to a step."""
    alone = nested.leaves(optimizer)
    counts = (getattr(one, "evaluations", one.iterations) for one in alone)
    return sum(float(ops.convert_to_numpy(count)) for count in counts)
