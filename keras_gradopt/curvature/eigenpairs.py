"""top_eigenpairs: extreme eigenvalues of the curvature with how wrong they may be."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, Unpack

import numpy as np

from keras_gradopt.arguments import positive_int
from keras_gradopt.curvature.data_landscape import DataLandscape, Options, landscape_of, watched
from keras_gradopt.curvature.krylov import Krylov

Which = Literal["largest", "smallest", "both"]
_ENDS = ("largest", "smallest", "both")


@dataclasses.dataclass(frozen=True)
class Eigenpairs:
    r"""Eigenvalues and -vectors of a symmetric matrix.

    Attributes:
        values: Shape (count,), falling. Within `errors[i]` of `values[i]` there is an eigenvalue.
        vectors: Shape (count, size), each of length 1.
        residuals: Shape (count,): $\|H v - \theta v\|$, computed with a product each.
        errors: Shape (count,): the residual, and what rounding leaves in a product.
        converged: Whether every residual is within the tolerance.
        products: Products with the matrix that it took.
    """

    values: np.ndarray
    vectors: np.ndarray
    residuals: np.ndarray
    errors: np.ndarray
    converged: bool
    products: int

    def __str__(self) -> str:
        rows = [f"{v:.4g} ± {e:.1g}" for v, e in zip(self.values, self.errors, strict=True)]
        return ", ".join(rows) + ("" if self.converged else " (not converged)")


def top_eigenpairs(
    model: Any,
    x: Any = None,
    y: Any = None,
    *,
    k: int = 1,
    which: Which = "largest",
    tolerance: float = 1e-3,
    max_products: int = 300,
    seed: int = 0,
    progress: bool = False,
    **options: Unpack[Options],
) -> Eigenpairs:
    r"""The extreme eigenvalues of the loss' curvature, with the directions that have them.

    Use it to see how sharp a minimum is (the largest), and whether a point is a saddle (the
    smallest is negative: its eigenvector leads down). Lanczos' method with full
    re-orthogonalisation: for a unit vector $v$ with $\theta = v^T H v$ and residual
    $r = \|H v - \theta v\|$ some eigenvalue $\lambda$ of the symmetric $H$ has

    $$|\lambda - \theta| \le r.$$

    The bound is certain but for rounding, which `errors` adds; that no other eigenvalue lies
    further out is not: from a random start Lanczos misses one with probability 0, but it may not
    have got to it within its products. Values are algebraic: the smallest is the most negative.

    Args:
        model: A compiled model, or a `DataLandscape` of one.
        x: Inputs, as `DataLandscape` takes them; None with a `DataLandscape`.
        y: Targets; None with a `DataLandscape`.
        k: How many at each end, at least 1.
        which: `"largest"`, `"smallest"` or `"both"` ends.
        tolerance: Residual to stop at, relative to the largest absolute value, above 0. Values are
            better than that where they lie apart: they err by about the residual's square.
        max_products: Products to spend at most, at least 2. Each costs about three gradients over
            all data.
        seed: Of the start vector.
        progress: Whether to show a bar.
        **options: `sample_weight`, `batch_size`, `training`, `variables`, `curvature`: see
            `DataLandscape`.

    Returns:
        `Eigenpairs`: k of them, 2k for both ends, or all that the matrix has if these are fewer.

    Raises:
        ValueError: A layer has no second derivative, or an argument is out of its range.

    Example:
        >>> model.compile(optimizer="sgd", loss="mse")
        >>> pairs = keras_gradopt.curvature.top_eigenpairs(model, x, y, k=2)
        >>> bool(pairs.converged), pairs.vectors.shape
        (True, (2, 57))

    References:
        Lanczos. An iteration method for the solution of the eigenvalue problem of linear
        differential and integral operators. Journal of Research of the NBS 45, 1950. Wu, Simon.
        Thick-restart Lanczos method for large symmetric eigenvalue problems. SIAM Journal on Matrix
        Analysis and Applications 22, 2000. Parlett. The Symmetric Eigenvalue Problem. 1998,
        Theorem 4.5.1 (the bound). Not SciPy's `eigsh`: it measures convergence relative to each
        eigenvalue, so that one near 0 never converges in float32.
    """
    k = positive_int("k", k)
    max_products = positive_int("max_products", max_products, least=2)
    if which not in _ENDS:
        raise ValueError(f"which must be one of {', '.join(map(repr, _ENDS))}, received {which!r}.")
    if not tolerance > 0:
        raise ValueError(
            f"tolerance must be above 0, received {tolerance!r}. 1e-3 of the largest is usual."
        )
    landscape = landscape_of(model, x, y, options)
    product = watched(landscape.product, None, progress=progress)
    start = np.random.default_rng(seed).normal(size=landscape.size)
    return extreme(landscape, product, start, k, which, tolerance, max_products)


def extreme(
    landscape: DataLandscape,
    product: Any,
    start: np.ndarray,
    k: int,
    which: Which,
    tolerance: float,
    max_products: int,
) -> Eigenpairs:
    """`top_eigenpairs` of a product, from a start vector."""
    count = min(2 * k if which == "both" else k, landscape.size)
    # One more product for each, to measure its residual.
    krylov = searched(product, start, k, which, tolerance, max(max_products - count, 1))
    return measured(landscape, product, krylov, k, which, tolerance)


def searched(
    product: Any, start: np.ndarray, k: int, which: Which, tolerance: float, budget: int
) -> Krylov:
    """A Krylov basis in which the wanted Ritz pairs have converged, or the budget is spent.

    Args:
        product: From $v$ to $H v$.
        start: The first vector, not 0.
        k: Pairs at each end.
        which: The ends.
        tolerance: Residual, relative to the largest absolute Ritz value.
        budget: Products to spend, at least 1.
    """
    count = min(2 * k if which == "both" else k, start.size)
    krylov = Krylov(product, start, max(32, 4 * count), np.random.default_rng(1))
    while True:
        krylov.extend()
        values, s, residuals = krylov.ritz()
        wanted = _wanted(len(values), k, which)
        bound = tolerance * np.max(np.abs(values))
        enough = krylov.filled >= count and bool(np.all(residuals[wanted] <= bound))
        # A first agreement may be an accident of few vectors: half of the basis is needed.
        settled = krylov.products >= krylov.dimension // 2
        if (enough and settled) or krylov.products >= budget or krylov.filled == start.size:
            return krylov
        if krylov.is_full:
            kept = _wanted(len(values), max(k + 4, krylov.dimension // 4), which)
            krylov.restart(values[kept], s[:, kept])


def _wanted(count: int, k: int, which: Which) -> np.ndarray:
    """Positions of the wanted among `count` rising values."""
    low = range(min(k, count)) if which != "largest" else ()
    high = range(max(count - k, 0), count) if which != "smallest" else ()
    return np.array(sorted({*low, *high}))


def measured(
    landscape: DataLandscape, product: Any, krylov: Krylov, k: int, which: Which, tolerance: float
) -> Eigenpairs:
    """The pairs with residuals from products of their own, not from Lanczos' recurrence."""
    ritz, s, _ = krylov.ritz()
    vectors = krylov.vectors(s[:, _wanted(len(ritz), k, which)[::-1]])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    images = np.stack([product(v) for v in vectors])
    values = np.einsum("ij,ij->i", vectors, images)
    residuals = np.linalg.norm(images - values[:, None] * vectors, axis=1)
    largest = float(np.max(np.abs(ritz)))
    rounding = landscape.rounding(largest)
    return Eigenpairs(
        values=values,
        vectors=vectors,
        residuals=residuals,
        errors=residuals + rounding,
        converged=bool(np.all(residuals <= tolerance * largest + rounding)),
        products=krylov.products + len(vectors),
    )
