"""condition_number: how much more curved the loss is in one direction than in another."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Unpack

import numpy as np

from keras_gradopt.arguments import positive_int
from keras_gradopt.curvature.data_landscape import DataLandscape, Options, landscape_of, watched
from keras_gradopt.curvature.eigenpairs import searched
from keras_gradopt.curvature.krylov import Krylov

DENSE = 256  # weights up to which all eigenvalues are computed


@dataclasses.dataclass(frozen=True)
class ConditionNumber:
    r"""The ratio of the largest to the smallest absolute eigenvalue.

    Attributes:
        value: The estimate; the lower bound where the smallest eigenvalue is not seen.
        low: What it is at least.
        high: What it is at most; infinite where an eigenvalue may be 0.
        largest: The largest absolute eigenvalue.
        smallest: The smallest absolute eigenvalue that was seen.
        is_exact: Whether all eigenvalues were computed.
    """

    value: float
    low: float
    high: float
    largest: float
    smallest: float
    is_exact: bool

    def __str__(self) -> str:
        if math.isinf(self.high):
            return f"at least {self.low:.3g}"
        return f"{self.value:.3g} (between {self.low:.3g} and {self.high:.3g})"


def condition_number(
    model: Any,
    x: Any = None,
    y: Any = None,
    *,
    damping: float = 0.0,
    dense_up_to: int = DENSE,
    tolerance: float = 1e-4,
    max_products: int = 300,
    seed: int = 0,
    progress: bool = False,
    **options: Unpack[Options],
) -> ConditionNumber:
    r"""The condition number of the loss' curvature.

    Use it to see whether first-order training must be slow: gradient descent takes about
    $\kappa/2$ steps to come $e$ times nearer to a minimum, with the best momentum
    $\sqrt{\kappa}/2$; second-order rules do not depend on it. With eigenvalues $\lambda_i$ and
    damping $\delta$

    $$\kappa = \frac{\max_i |\lambda_i + \delta|}{\min_i |\lambda_i + \delta|}.$$

    Up to `dense_up_to` weights the matrix is formed, a product for each column. Above that Lanczos
    gives the eigenvalues at both ends: they are what $\kappa$ needs where all are positive. Where
    the smallest is not positive by more than its error, the smallest absolute value lies inside and
    is not known: then each Ritz value, within its residual of an eigenvalue, bounds $\kappa$ from
    below. Networks have more weights than data determines: a $\kappa$ without bound is the rule,
    and a damped one tells more.

    Args:
        model: A compiled model, or a `DataLandscape` of one.
        x: Inputs, as `DataLandscape` takes them; None with a `DataLandscape`.
        y: Targets; None with a `DataLandscape`.
        damping: $\delta$, at least 0.
        dense_up_to: Weights up to which all eigenvalues are computed, at least 0.
        tolerance: Residual to stop at, relative to the largest absolute value, above 0.
        max_products: Products to spend at most above `dense_up_to`, at least 2.
        seed: Of the start vector.
        progress: Whether to show a bar.
        **options: `sample_weight`, `batch_size`, `training`, `variables`, `curvature`: see
            `DataLandscape`.

    Returns:
        `ConditionNumber`.

    Raises:
        ValueError: A layer has no second derivative, or an argument is out of its range.

    Example:
        >>> model.compile(optimizer="sgd", loss="mse")
        >>> condition = keras_gradopt.curvature.condition_number(model, x, y, damping=0.1)
        >>> condition.is_exact, condition.low <= condition.value <= condition.high
        (True, True)

    References:
        Nocedal, Wright. Numerical Optimization. 2006, Theorem 3.3 (steps of gradient descent).
        Polyak. Some methods of speeding up the convergence of iteration methods. 1964 (of
        momentum).
    """
    if not damping >= 0:
        raise ValueError(f"damping must be at least 0, received {damping!r}.")
    if not tolerance > 0:
        raise ValueError(f"tolerance must be above 0, received {tolerance!r}. 1e-4 is usual.")
    dense_up_to = positive_int("dense_up_to", dense_up_to, least=0)
    max_products = positive_int("max_products", max_products, least=2)
    landscape = landscape_of(model, x, y, options)
    if landscape.size <= dense_up_to:
        product = watched(landscape.product, landscape.size, progress=progress)
        return exact(landscape, product, damping)
    product = watched(landscape.product, None, progress=progress)
    start = np.random.default_rng(seed).normal(size=landscape.size)
    krylov = searched(product, start, 1, "both", tolerance, max_products)
    return from_krylov(landscape, krylov, damping)


def from_krylov(landscape: DataLandscape, krylov: Krylov, damping: float = 0.0) -> ConditionNumber:
    """The condition number from what Lanczos has found.

    Args:
        landscape: Whose curvature.
        krylov: A basis in which both ends have converged.
        damping: Added to each eigenvalue.
    """
    values, _, residuals = krylov.ritz()
    rounding = landscape.rounding(float(np.max(np.abs(values))))
    return bounded(values + damping, residuals + rounding)


def exact(landscape: DataLandscape, product: Any, damping: float = 0.0) -> ConditionNumber:
    """The condition number from all eigenvalues, with a product for each column."""
    matrix = np.stack([product(e) for e in np.eye(landscape.size)])
    values = np.linalg.eigvalsh((matrix + matrix.T) / 2)
    # Weyl: no eigenvalue moves by more than the norm of what rounding changed.
    wrong = float(np.linalg.norm(matrix - matrix.T, 2)) / 2
    error = wrong + landscape.rounding(float(np.max(np.abs(values))))
    found = np.abs(values + damping)
    return _ratio(found.max(), found.min(), error, error, is_exact=True)


def bounded(values: np.ndarray, errors: np.ndarray) -> ConditionNumber:
    """The condition number from some eigenvalues, the least and the largest among them.

    Args:
        values: Rising.
        errors: How far from an eigenvalue each may be.
    """
    sizes = np.abs(values)
    top = int(np.argmax(sizes))
    if values[0] > errors[0]:  # all are positive: the first is the smallest
        return _ratio(sizes[top], sizes[0], errors[top], errors[0])
    least = int(np.argmin(sizes + errors))
    found = _ratio(sizes[top], sizes[least], errors[top], errors[least])
    return dataclasses.replace(found, value=found.low, high=math.inf)


def _ratio(
    largest: Any, smallest: Any, above: Any, below: Any, *, is_exact: bool = False
) -> ConditionNumber:
    low = max((largest - above) / (smallest + below), 1.0) if smallest + below else 1.0
    high = (largest + above) / (smallest - below) if smallest > below else math.inf
    return ConditionNumber(
        value=float(largest / smallest if math.isfinite(high) else low),
        low=float(low),
        high=float(high),
        largest=float(largest),
        smallest=float(smallest),
        is_exact=is_exact,
    )
