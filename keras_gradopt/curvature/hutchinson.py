"""trace, diagonal: estimates from random probes, each with its standard error."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, Unpack

import numpy as np

from keras_gradopt.arguments import positive_int
from keras_gradopt.curvature.data_landscape import Options, landscape_of, watched
from keras_gradopt.curvature.krylov import rademacher

Method = Literal["hutchinson", "hutch++"]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """An estimate and its standard error; both numbers, or arrays of one shape.

    Attributes:
        value: The estimate.
        standard_error: Its standard deviation over other draws of the probes, as these tell it.
    """

    value: Any
    standard_error: Any

    def __str__(self) -> str:
        if np.ndim(self.value):
            return f"{np.shape(self.value)} values, mean {np.mean(self.value):.4g}"
        return f"{self.value:.4g} ± {self.standard_error:.1g}"


def trace(
    model: Any,
    x: Any = None,
    y: Any = None,
    *,
    probes: int = 32,
    method: Method = "hutchinson",
    seed: int = 0,
    progress: bool = False,
    **options: Unpack[Options],
) -> Estimate:
    r"""The trace of the loss' curvature: the sum of its eigenvalues.

    Use it as a measure of the sharpness in all directions together. With $m$ probes $z_i$ of
    entries $\pm 1$

    $$\operatorname{tr} H \approx \frac{1}{m} \sum_i z_i^T H z_i, \qquad
    \mathrm{se} = \sqrt{\frac{\operatorname{var}_i(z_i^T H z_i)}{m}},$$

    unbiased, of variance $2 \sum_{i \ne j} H_{ij}^2 / m$. Hutch++ spends a third of its products
    on a basis $Q$ of the directions that count, takes the trace there exactly, and Hutchinson's in
    what is left: far better where few eigenvalues dominate. Its basis takes memory for a third
    of `probes` vectors.

    Args:
        model: A compiled model, or a `DataLandscape` of one.
        x: Inputs, as `DataLandscape` takes them; None with a `DataLandscape`.
        y: Targets; None with a `DataLandscape`.
        probes: Products to spend, at least 2, with `"hutch++"` at least 6. Two standard errors
            cover the truth in 95 % of draws from some 20 on.
        method: `"hutchinson"` or `"hutch++"`.
        seed: Of the probes.
        progress: Whether to show a bar.
        **options: `sample_weight`, `batch_size`, `training`, `variables`, `curvature`: see
            `DataLandscape`.

    Returns:
        `Estimate` of two numbers.

    Raises:
        ValueError: A layer has no second derivative, or an argument is out of its range.

    Example:
        >>> model.compile(optimizer="sgd", loss="mse")
        >>> estimate = keras_gradopt.curvature.trace(model, x, y, probes=20)
        >>> bool(estimate.value > 2 * estimate.standard_error)
        True

    References:
        Hutchinson. A stochastic estimator of the trace of the influence matrix for Laplacian
        smoothing splines. Communications in Statistics 18, 1989. Meyer, Musco, Musco, Woodruff.
        Hutch++: Optimal Stochastic Trace Estimation. SOSA 2021, Algorithm 1.
    """
    if method not in ("hutchinson", "hutch++"):
        raise ValueError(f"method must be 'hutchinson' or 'hutch++', received {method!r}.")
    probes = positive_int("probes", probes, least=2 if method == "hutchinson" else 6)
    landscape = landscape_of(model, x, y, options)
    product = watched(landscape.product, probes, progress=progress)
    rng, size = np.random.default_rng(seed), landscape.size
    if method == "hutchinson":
        return _mean([float(z @ product(z)) for z in _draws(rng, size, probes)])
    third = min(probes // 3, size)
    images = np.stack([product(z) for z in _draws(rng, size, third)])
    basis, _ = np.linalg.qr(images.T)
    inside = sum(float(q @ product(q)) for q in basis.T)
    outside = []
    for z in _draws(rng, size, probes - 2 * third):
        left = z - basis @ (basis.T @ z)
        outside.append(float(left @ product(left)))
    rest = _mean(outside)
    return Estimate(inside + rest.value, rest.standard_error)


def diagonal(
    model: Any,
    x: Any = None,
    y: Any = None,
    *,
    probes: int = 32,
    seed: int = 0,
    progress: bool = False,
    **options: Unpack[Options],
) -> Estimate:
    r"""The diagonal of the loss' curvature: how curved the loss is along each weight.

    Use it to see which layers are sharp, or to scale weights. With $m$ probes $z_i$ of entries
    $\pm 1$, entry by entry,

    $$\operatorname{diag} H \approx \frac{1}{m} \sum_i z_i \odot H z_i,$$

    unbiased; entry $k$ has variance $\sum_{j \ne k} H_{kj}^2 / m$.

    Args:
        model: A compiled model, or a `DataLandscape` of one.
        x: Inputs, as `DataLandscape` takes them; None with a `DataLandscape`.
        y: Targets; None with a `DataLandscape`.
        probes: Products to spend, at least 2.
        seed: Of the probes.
        progress: Whether to show a bar.
        **options: `sample_weight`, `batch_size`, `training`, `variables`, `curvature`: see
            `DataLandscape`.

    Returns:
        `Estimate` of two flat arrays; `DataLandscape.arrays` cuts them into the variables' shapes.

    Raises:
        ValueError: A layer has no second derivative, or an argument is out of its range.

    Example:
        >>> model.compile(optimizer="sgd", loss="mse")
        >>> landscape = keras_gradopt.curvature.DataLandscape(model, x, y)
        >>> estimate = keras_gradopt.curvature.diagonal(landscape, probes=20)
        >>> [part.shape for part in landscape.arrays(estimate.value)]
        [(5, 8), (8,), (8, 1), (1,)]

    References:
        Bekas, Kokiopoulou, Saad. An estimator for the diagonal of a matrix. Applied Numerical
        Mathematics 57, 2007.
    """
    probes = positive_int("probes", probes, least=2)
    landscape = landscape_of(model, x, y, options)
    product = watched(landscape.product, probes, progress=progress)
    mean, squares = np.zeros(landscape.size), np.zeros(landscape.size)
    for i, z in enumerate(_draws(np.random.default_rng(seed), landscape.size, probes)):
        # Welford's update: the squares' sum loses no digits to the mean's.
        found = z * product(z)
        before = found - mean
        mean += before / (i + 1)
        squares += before * (found - mean)
    return Estimate(mean, np.sqrt(squares / (probes - 1) / probes))


def _draws(rng: np.random.Generator, size: int, count: int) -> Any:
    return (rademacher(rng, size) for _ in range(count))


def _mean(values: list[float]) -> Estimate:
    """The mean of independent values with its standard error."""
    return Estimate(float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(len(values))))
