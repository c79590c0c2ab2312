"""HypergradientDescent against the paper's Algorithms 4, 5 and 6 in NumPy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import keras_gradopt as kg
from keras_gradopt.slot import Slot
from tests.keras_gradopt.parity import STEPS, Pair
from tests.keras_gradopt.problems import gradients, start_weights

MU = 0.9


class GradientVelocity(kg.Optimizer):
    """The paper's SGDN: its velocity is in units of the gradient."""

    def slots(self, shape: tuple[int, ...]) -> Sequence[Slot]:
        return (Slot("velocity"),)

    def update(self, w: Any, g: Any, *slots: Any, h: Any) -> tuple:
        v = MU * slots[0] + g
        return w - h.learning_rate * (g + MU * v), v


# Directions of the paper's three algorithms: state, gradient and step in, (direction, state) out.
# The step is minus the rate times the direction, so the direction is minus its derivative.


def sgd_direction(_: Any, g: np.ndarray, step: int) -> tuple[np.ndarray, Any]:
    del step
    return g, None


def sgdn_direction(v: Any, g: np.ndarray, step: int) -> tuple[np.ndarray, Any]:
    del step
    v = MU * (0.0 if v is None else v) + g
    return g + MU * v, v


def adam_direction(moments: Any, g: np.ndarray, step: int) -> tuple[np.ndarray, Any]:
    m, v = (0.0, 0.0) if moments is None else moments
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
    return m / (1 - 0.9**step) / (np.sqrt(v / (1 - 0.999**step)) + 1e-7), (m, v)


ALGORITHMS = {
    "4 SGD-HD": (sgd_direction, kg.SGD, 0.02, 1e-4),
    "5 SGDN-HD": (sgdn_direction, GradientVelocity, 0.005, 1e-6),
    "6 Adam-HD": (adam_direction, kg.Adam, 0.02, 1e-5),
}


def reference(
    direction: Callable,
    alpha: float,
    beta: float,
    *,
    multiplicative: bool,
    steps: int = STEPS,
) -> tuple[list, list[float]]:
    """Weights after each step, and the rate of each, in float64."""
    ws = [w.astype("float64") for w in start_weights()]
    us: list[Any] = [np.zeros_like(w) for w in ws]
    states: list[Any] = [None] * len(ws)
    path, rates = [], []
    for step in range(steps):
        gs = [g.astype("float64") for g in gradients(ws, step)]
        product = sum((g * u).sum() for g, u in zip(gs, us, strict=True))
        if multiplicative:
            norms = np.sqrt(sum((g * g).sum() for g in gs) * sum((u * u).sum() for u in us))
            alpha *= 1 + beta * (product / norms if norms else 0.0)
        else:
            alpha += beta * product
        found = [direction(s, g, step + 1) for s, g in zip(states, gs, strict=True)]
        us, states = [u for u, _ in found], [s for _, s in found]
        ws = [w - alpha * u for w, u in zip(ws, us, strict=True)]
        path.append(ws)
        rates.append(alpha)
    return path, rates


def _pair(algorithm: str, multiplicative: bool) -> Pair:
    direction, inner, alpha, beta = ALGORITHMS[algorithm]
    beta = 0.05 if multiplicative else beta
    return Pair(
        lambda: kg.HypergradientDescent(inner(alpha), beta, multiplicative),
        lambda: reference(direction, alpha, beta, multiplicative=multiplicative)[0],
    )


PAIRS = {
    f"HypergradientDescent | NumPy, Algorithm {name}{', multiplicative' * many}": _pair(name, many)
    for name in ALGORITHMS
    for many in (False, True)
}
