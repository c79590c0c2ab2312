"""Functions in the unit box that global optimisation is measured on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Box:
    """A function on the unit box.

    Attributes:
        title: What a table calls it.
        dimensions: Of the box.
        loss: From a point, shape (dimensions,), to the loss.
        lowest: The loss at the global minimum.
        evaluations: How many a comparison allows.
    """

    title: str
    dimensions: int
    loss: Callable[[Any], float]
    lowest: float
    evaluations: int


def branin(u: Any) -> float:
    """Branin's function, whose domain is [-5, 10] x [0, 15]."""
    x, y = 15 * np.asarray(u, "float64") - [5.0, 0.0]
    valley = y - 5.1 / (4 * np.pi**2) * x * x + 5 / np.pi * x - 6
    return float(valley**2 + 10 * (1 - 1 / (8 * np.pi)) * np.cos(x) + 10)


_HEIGHTS = np.array([1.0, 1.2, 3.0, 3.2])
_CURVATURES = np.array(
    [
        [10, 3, 17, 3.5, 1.7, 8],
        [0.05, 10, 17, 0.1, 8, 14],
        [3, 3.5, 1.7, 10, 17, 8],
        [17, 8, 0.05, 10, 0.1, 14],
    ]
)
_CENTRES = 1e-4 * np.array(
    [
        [1312, 1696, 5569, 124, 8283, 5886],
        [2329, 4135, 8307, 3736, 1004, 9991],
        [2348, 1451, 3522, 2883, 3047, 6650],
        [4047, 8828, 8732, 5743, 1091, 381],
    ]
)


def hartmann(u: Any) -> float:
    """Hartmann's function of six variables."""
    distance = np.sum(_CURVATURES * (np.asarray(u, "float64") - _CENTRES) ** 2, axis=1)
    return float(-_HEIGHTS @ np.exp(-distance))


# Both as in Picheny, Wagner, Ginsbourger. A Benchmark of Kriging-Based Infill Criteria for Noisy
# Optimization. Structural and Multidisciplinary Optimization 2013.
BOXES = {
    "branin": Box("Branin, 2 dimensions", 2, branin, 10 / (8 * np.pi), 40),
    "hartmann": Box("Hartmann, 6 dimensions", 6, hartmann, -3.32236801141552, 80),
}


def regrets(losses: Sequence[float], box: Box) -> np.ndarray:
    """Distance of the best loss so far to the lowest, after each evaluation."""
    return np.minimum.accumulate(np.asarray(losses, "float64")) - box.lowest
