"""inspect: what kind of point a model's weights are at, with the evidence."""

from __future__ import annotations

import math
from typing import Any, Unpack

import numpy as np

from keras_gradopt.arguments import positive_int
from keras_gradopt.curvature import descent as lines
from keras_gradopt.curvature import verdict as verdicts
from keras_gradopt.curvature.conditioning import DENSE, exact, from_krylov
from keras_gradopt.curvature.data_landscape import DataLandscape, Options, landscape_of, watched
from keras_gradopt.curvature.density import spectral_density
from keras_gradopt.curvature.descent import Descent
from keras_gradopt.curvature.eigenpairs import measured, searched
from keras_gradopt.curvature.hutchinson import trace
from keras_gradopt.curvature.inspection import Inspection
from keras_gradopt.curvature.noise import NoiseScale, noise_scale
from keras_gradopt.curvature.stability import Stability, stability

_TOLERANCE = 1e-3  # residual of the extreme eigenvalues, relative to the largest
_GROUPS = 32  # minibatches that the noise is read from


def inspect(
    model: Any,
    x: Any = None,
    y: Any = None,
    *,
    learning_rate: float | None = None,
    probes: int = 32,
    max_products: int = 150,
    spectrum: bool = True,
    seed: int = 0,
    progress: bool = False,
    **options: Unpack[Options],
) -> Inspection:
    r"""Says whether a model's weights are at a minimum, a saddle or a plateau, or still on the way.

    Use it where a training stands still, or before one ends it. It measures the extreme
    eigenvalues of the Hessian, its trace and condition, the gradient's noise, and the loss itself
    along three directions: down the gradient, along a saddle-free Newton step in the gradient's
    Krylov space, and both ways along the eigenvector of the smallest eigenvalue. The verdict is the
    first of these that holds, with shares of the loss' absolute value:

    1. *plateau*: within $r$, a tenth of the weights' norm (at least 0.1), derivatives let the loss
       change by less than 0.1 %: $r \sqrt{E|g_i|^2} + r^2 |\lambda|_{\max} / 2$, with the gradients
       $g_i$ of single rows, which at a minimum cancel and on a plateau vanish;
    2. *still descending*: a gradient or a second-order step lowers the loss by more than 1 %;
    3. *saddle*: $\lambda_{\min}$ is negative beyond its error, and a step along its eigenvector
       lowers the loss by more than 0.1 %;
    4. *minimum*: none of these.

    Args:
        model: A compiled model, or a `DataLandscape` of one.
        x: Inputs, as `DataLandscape` takes them; None with a `DataLandscape`.
        y: Targets; None with a `DataLandscape`.
        learning_rate: To compare the sharpness with; None is the optimizer's present one.
        probes: For the trace, at least 2.
        max_products: Products to spend at most on the extreme eigenvalues, at least 2.
        spectrum: Whether to compute the spectral density too, some 100 products more.
        seed: Of everything drawn at random.
        progress: Whether to show bars.
        **options: `sample_weight`, `batch_size`, `training`, `variables`: see `DataLandscape`.

    Returns:
        `Inspection`.

    Raises:
        ValueError: The model is not compiled, a layer has no second derivative, the loss is NaN,
            the matrix is not the Hessian, or an argument is out of its range.

    Example:
        >>> model.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
        >>> inspection = keras_gradopt.curvature.inspect(model, x, y)
        >>> inspection.kind
        'still descending'
        >>> inspection.stability.limit
        2.0

    References:
        Dauphin, Pascanu, Gulcehre, Cho, Ganguli, Bengio. Identifying and attacking the saddle point
        problem in high-dimensional non-convex optimization. NeurIPS 2014 (the saddle-free step).
        Cohen, Kaur, Li, Kolter, Talwalkar. Gradient Descent on Neural Networks Typically Occurs at
        the Edge of Stability. ICLR 2021 (sharpness and rate). The thresholds are ours.
    """
    max_products = positive_int("max_products", max_products, least=2)
    landscape = landscape_of(model, x, y, options)
    if landscape.curvature != "hessian":
        raise ValueError(
            f"inspect looks for negative eigenvalues, which curvature={landscape.curvature!r} "
            "cannot have: take 'hessian'."
        )
    before = landscape.evaluations
    loss, g = landscape.value(), landscape.gradient()
    product = watched(landscape.product, None, progress=progress)
    start = np.random.default_rng(seed).normal(size=landscape.size)
    krylov = searched(product, start, 1, "both", _TOLERANCE, max_products)
    pairs = measured(landscape, product, krylov, 1, "both", _TOLERANCE)
    all_of_them = landscape.size <= DENSE
    condition = exact(landscape, product) if all_of_them else from_krylov(landscape, krylov)
    largest = float(np.max(np.abs(pairs.values)))
    noise = _noise(landscape)
    down = lines.along_gradient(landscape, loss, g, largest)
    newton = lines.second_order(landscape, loss, g, product, 24)
    smallest, error = float(pairs.values[-1]), float(pairs.errors[-1])
    escape = None
    if smallest + error < 0:
        escape = lines.along_negative_curvature(landscape, loss, pairs.vectors[-1])
    numbers = verdicts.Numbers(
        loss=loss,
        gradient_share=_share(down),
        newton_share=_share(newton),
        change=_change(landscape, loss, g, largest, noise),
        smallest=smallest,
        error=error,
        escape_share=_share(escape),
        escape_step=0.0 if escape is None else escape.step,
        largest_absolute=largest,
    )
    kind, sentence = verdicts.judge(numbers)
    steadiness = stability(
        float(pairs.values[0]), float(pairs.errors[0]), landscape.model.optimizer, learning_rate
    )
    return Inspection(
        kind=kind,
        verdict=sentence,
        suggestion=_suggestion(kind, numbers, steadiness),
        loss=loss,
        gradient_norm=float(np.linalg.norm(g)),
        eigenpairs=pairs,
        trace=trace(landscape, probes=probes, seed=seed, progress=progress),
        condition=condition,
        stability=steadiness,
        noise=noise,
        gradient_step=down,
        second_order_step=newton,
        escape=escape,
        spectrum=spectral_density(landscape, probes=4, steps=24, seed=seed, progress=progress)
        if spectrum
        else None,
        weights=landscape.size,
        rows=landscape.data.rows,
        cost=landscape.evaluations - before,
    )


def _noise(landscape: DataLandscape) -> NoiseScale | None:
    grouped = landscape.in_groups(_GROUPS)
    if len(grouped.data) < 3:
        return None
    landscape.evaluations += 2.0
    return noise_scale(grouped.gradients, grouped.data.sizes)


def _change(
    landscape: DataLandscape, loss: float, g: np.ndarray, largest: float, noise: NoiseScale | None
) -> float:
    """How much the loss may change within a tenth of the weights' norm, relative to it."""
    squares = float(g @ g) + (max(noise.variance.value, 0.0) if noise else 0.0)
    r = 0.1 * lines.reach(landscape)
    change = r * math.sqrt(squares) + r**2 * largest / 2
    return change / abs(loss) if loss else math.inf


def _suggestion(kind: verdicts.Kind, numbers: verdicts.Numbers, steadiness: Stability) -> str:
    parts = [verdicts.suggestion(kind, numbers)]
    if numbers.largest_absolute == 0 and kind != "plateau":
        parts.append(
            "All second derivatives are 0: the loss is linear in the weights, piece by piece, as "
            "with ReLU and the mean absolute error, and its curvature tells nothing."
        )
    if steadiness.is_unstable and steadiness.limit is not None:
        below = steadiness.limit / steadiness.product * steadiness.learning_rate
        parts.append(f"Gradient descent is stable below a learning rate of {below:.2g} here.")
    return " ".join(parts)


def _share(line: Descent | None) -> float:
    return 0.0 if line is None else line.share
