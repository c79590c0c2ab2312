"""How far the loss falls along a direction: measured, not extrapolated."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from keras_gradopt.curvature.data_landscape import DataLandscape
from keras_gradopt.curvature.krylov import Krylov


@dataclasses.dataclass(frozen=True)
class Descent:
    """The loss along a direction from the present weights.

    Attributes:
        direction: Of length 1, shape (size,).
        steps: Distances along it, rising; negative ones go the other way.
        losses: The loss at each.
        step: The distance of the lowest, 0 where no step lowers the loss.
        decrease: By how much it lowers the loss, at least 0.
        share: The same relative to the loss' absolute value.
    """

    direction: np.ndarray
    steps: np.ndarray
    losses: np.ndarray
    step: float
    decrease: float
    share: float

    @property
    def lowers(self) -> bool:
        """Whether some step lowers the loss at all, by more than float32 rounds it."""
        return self.share > 1e-6


def descent(landscape: DataLandscape, here: float, direction: np.ndarray, steps: Any) -> Descent:
    """Measures the loss along a direction.

    Args:
        landscape: Whose loss.
        here: The loss at the present weights.
        direction: Not 0, of any length.
        steps: Distances to try, in units of `direction` made of length 1.
    """
    unit = direction / np.linalg.norm(direction)
    steps = np.sort(np.asarray(steps, "float64"))
    losses = np.array([landscape.value(landscape.position + t * unit) for t in steps])
    finite = np.where(np.isfinite(losses), losses, np.inf)
    lowest = int(np.argmin(finite))
    decrease = max(here - float(finite[lowest]), 0.0)
    return Descent(
        direction=unit,
        steps=steps,
        losses=losses,
        step=float(steps[lowest]) if decrease else 0.0,
        decrease=decrease,
        share=decrease / abs(here) if here else 0.0,
    )


def reach(landscape: DataLandscape) -> float:
    """The distance that counts as far: the norm of the weights, at least 1."""
    return max(float(np.linalg.norm(landscape.position)), 1.0)


def along_gradient(
    landscape: DataLandscape, here: float, g: np.ndarray, largest: float
) -> Descent | None:
    """Down the gradient, by steps around the stable one; None where there is no gradient.

    Args:
        landscape: Whose loss.
        here: The loss at the present weights.
        g: The gradient.
        largest: The largest absolute eigenvalue; 0 tries all distances within reach.
    """
    norm = float(np.linalg.norm(g))
    if norm == 0:
        return None
    if largest > 0:
        steps = norm / largest * 2.0 ** np.arange(-3, 3)
    else:
        steps = reach(landscape) * 2.0 ** -np.arange(0, 16)
    return descent(landscape, here, -g, steps)


def second_order(
    landscape: DataLandscape, here: float, g: np.ndarray, product: Any, products: int
) -> Descent | None:
    r"""Along a saddle-free Newton step in the Krylov space of the gradient; None without one.

    With $V$ and $T = V^T H V = S \Theta S^T$ of Lanczos' method from $g$ the step is
    $-V S (|\Theta| + \delta)^{-1} S^T V^T g$, with $\delta$ a thousandth of the largest
    $|\theta|$, tried at its own length and at halves of it.

    Args:
        landscape: Whose loss.
        here: The loss at the present weights.
        g: The gradient.
        product: The Hessian's.
        products: How many to spend, at least 1.
    """
    if not np.any(g):
        return None
    krylov = Krylov(product, g, products, np.random.default_rng(0))
    while not krylov.is_full:
        krylov.extend()
    values, s, _ = krylov.ritz()
    scale = np.abs(values)
    if not np.max(scale) > 0:
        return None
    damped = scale + 1e-3 * np.max(scale)
    step = -float(np.linalg.norm(g)) * krylov.vectors(s @ (s[0] / damped)[:, None])[0]
    length = float(np.linalg.norm(step))
    return descent(landscape, here, step, length * 2.0 ** np.arange(-6, 2))


def along_negative_curvature(landscape: DataLandscape, here: float, v: np.ndarray) -> Descent:
    """Both ways along a direction of negative curvature, as far as the weights' norm.

    Args:
        landscape: Whose loss.
        here: The loss at the present weights.
        v: The eigenvector.
    """
    distances = reach(landscape) * 2.0 ** -np.arange(0, 12)
    return descent(landscape, here, v, [*distances, *-distances])
