"""spectral_density: how the eigenvalues of the curvature are spread, all of them."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from keras_gradopt.arguments import positive_int
from keras_gradopt.curvature.data_landscape import Options, landscape_of, watched
from keras_gradopt.curvature.hutchinson import Estimate
from keras_gradopt.curvature.krylov import Krylov, rademacher
from keras_gradopt.curvature.plots import finish, graph_objects


@dataclasses.dataclass(frozen=True)
class SpectralDensity:
    r"""The share of eigenvalues near each value.

    Attributes:
        grid: Values, rising, shape (points,).
        density: Density at each, shape (points,); it integrates to 1.
        standard_error: Of the density over other probes, shape (points,).
        width: Standard deviation of the Gaussian that stands for one eigenvalue.
        nodes: Per probe, the Ritz values, shape (probes, steps).
        weights: Per probe, their weights, which add up to 1, shape (probes, steps).
        size: Eigenvalues that there are.
    """

    grid: np.ndarray
    density: np.ndarray
    standard_error: np.ndarray
    width: float
    nodes: np.ndarray
    weights: np.ndarray
    size: int

    def moment(self, order: int) -> Estimate:
        r"""$\operatorname{tr}(H^p) / n$, the mean of the eigenvalues' powers.

        It comes from the nodes, without the Gaussian's width, and is exact for each probe up to
        order $2 \cdot \mathrm{steps} - 1$.

        Args:
            order: The power, at least 0.
        """
        each = np.sum(self.weights * self.nodes**order, axis=1)
        return Estimate(float(each.mean()), _standard_error(each))

    def share(self, low: float, high: float) -> Estimate:
        """The share of eigenvalues in [low, high], in [0, 1]."""
        inside = (self.nodes >= low) & (self.nodes <= high)
        each = np.sum(self.weights * inside, axis=1)
        return Estimate(float(each.mean()), _standard_error(each))

    def plot(self, path: str | Path | None = None) -> Any:
        """The density on a logarithmic axis, with two standard errors around it.

        Args:
            path: Where to write the figure as an HTML page; None writes nothing.

        Returns:
            A `plotly.graph_objects.Figure`.

        Raises:
            ImportError: plotly is not installed.
        """
        go = graph_objects("SpectralDensity.plot")
        figure = go.Figure()
        # Below a thousandth of one eigenvalue's peak there is nothing to see.
        floor = 1e-3 / (self.size * self.width * np.sqrt(2 * np.pi))
        above = self.density + 2 * self.standard_error
        below = self.density - 2 * self.standard_error
        figure.add_scatter(
            x=[*self.grid, *self.grid[::-1]],
            y=np.maximum([*above, *below[::-1]], floor),
            fill="toself",
            mode="none",
            opacity=0.3,
            name="two standard errors",
        )
        figure.add_scatter(x=self.grid, y=np.maximum(self.density, floor), name="density")
        return finish(
            figure,
            path,
            "Eigenvalues of the curvature",
            xaxis_title="eigenvalue",
            yaxis_title="density",
            yaxis_type="log",
        )


def spectral_density(
    model: Any,
    x: Any = None,
    y: Any = None,
    *,
    probes: int = 8,
    steps: int = 32,
    points: int = 400,
    width: float | None = None,
    seed: int = 0,
    progress: bool = False,
    **options: Unpack[Options],
) -> SpectralDensity:
    r"""The spectrum of the loss' curvature as a density, by stochastic Lanczos quadrature.

    Use it to see the whole spectrum: a bulk at 0 with few large outliers is usual for networks;
    mass far on both sides of 0 says that second order needs damping. From a random vector of
    entries $\pm 1$, $m$ steps of Lanczos give Ritz values $\theta_j$ and weights $\omega_j$, the
    squared first entries of the eigenvectors of the tridiagonal matrix: Gauss' quadrature of the
    spectrum. The density is

    $$\phi(t) = \frac{1}{\mathrm{probes}} \sum_{i, j} \omega_{ij}\,
    \mathcal{N}(t;\, \theta_{ij}, \sigma^2).$$

    Args:
        model: A compiled model, or a `DataLandscape` of one.
        x: Inputs, as `DataLandscape` takes them; None with a `DataLandscape`.
        y: Targets; None with a `DataLandscape`.
        probes: Random vectors, at least 2.
        steps: Lanczos steps $m$ from each, at least 1; no more than the weights' size are made.
            They are kept in memory together, 8 bytes an entry.
        points: Of the grid, at least 2.
        width: $\sigma$, above 0; None is 1 % of the range of the Ritz values.
        seed: Of the random vectors.
        progress: Whether to show a bar.
        **options: `sample_weight`, `batch_size`, `training`, `variables`, `curvature`: see
            `DataLandscape`.

    Returns:
        `SpectralDensity`; its standard errors are over the probes.

    Raises:
        ValueError: A layer has no second derivative, or an argument is out of its range.

    Example:
        >>> model.compile(optimizer="sgd", loss="mse")
        >>> density = keras_gradopt.curvature.spectral_density(model, x, y, probes=4, steps=16)
        >>> round(float(np.trapezoid(density.density, density.grid)), 3)
        1.0

    References:
        Golub, Meurant. Matrices, Moments and Quadrature with Applications. 2010, Chapter 6.
        Ghorbani, Krishnan, Xiao. An Investigation into Neural Net Optimization via Hessian
        Eigenvalue Density. ICML 2019, Algorithm 1, with probes of entries +-1 in place of Gaussian
        ones: their length is known.
    """
    probes = positive_int("probes", probes, least=2)
    steps, points = positive_int("steps", steps), positive_int("points", points, least=2)
    if width is not None and not width > 0:
        raise ValueError(f"width must be above 0 or None, received {width!r}.")
    landscape = landscape_of(model, x, y, options)
    steps = min(steps, landscape.size)
    product = watched(landscape.product, probes * steps, progress=progress)
    rng = np.random.default_rng(seed)
    rules = [_quadrature(product, landscape.size, steps, rng) for _ in range(probes)]
    nodes, weights = (np.stack(column) for column in zip(*rules, strict=True))
    low, high = float(nodes.min()), float(nodes.max())
    if width is None:
        # All eigenvalues may be one, or 0.
        width = 0.01 * max(high - low, 1e-3 * abs(high), 1e-3 * abs(low)) or 0.01
    grid = np.linspace(low - 6 * width, high + 6 * width, points)
    each = np.stack([_smoothed(grid, n, w, width) for n, w in zip(nodes, weights, strict=True)])
    return SpectralDensity(
        grid=grid,
        density=each.mean(axis=0),
        standard_error=_standard_error(each),
        width=width,
        nodes=nodes,
        weights=weights,
        size=landscape.size,
    )


def _quadrature(
    product: Any, size: int, steps: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    krylov = Krylov(product, rademacher(rng, size), steps, rng)
    for _ in range(steps):
        krylov.extend()
    values, s, _ = krylov.ritz()
    return values, s[0] ** 2


def _smoothed(grid: np.ndarray, nodes: np.ndarray, weights: np.ndarray, width: float) -> np.ndarray:
    """Gaussians around the nodes, as the mean over each grid cell.

    A mean over cells still integrates to 1 where the grid is coarser than the Gaussians.
    """
    edges = np.concatenate([grid[:1], (grid[1:] + grid[:-1]) / 2, grid[-1:]])
    below = np.vectorize(math.erf)((edges[:, None] - nodes) / (width * np.sqrt(2))) / 2
    cells = np.diff(edges)[:, None]
    return (np.diff(below, axis=0) / cells) @ weights


def _standard_error(each: np.ndarray) -> Any:
    """Of the mean over the first axis."""
    error = np.std(each, axis=0, ddof=1) / np.sqrt(len(each))
    return error if np.ndim(error) else float(error)
