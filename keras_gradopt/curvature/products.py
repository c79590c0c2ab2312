"""hvp, ggnvp, fvp: a curvature matrix of the whole data times a vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np

from keras_gradopt.curvature.data_landscape import Curvature, DataLandscape, Options, landscape_of

Vector = np.ndarray | Sequence[Any]


def hvp(
    model: Any, x: Any = None, y: Any = None, *, v: Vector, **options: Unpack[Options]
) -> Vector:
    r"""The Hessian of the loss times a vector.

    Use it to build what is missing here. With the loss $L$ of all data at the present weights $w$
    it is $\nabla^2 L(w)\, v$, exact but for rounding, at the cost of about three gradients; no
    matrix is formed.

    Args:
        model: A compiled model, or a `DataLandscape` of one.
        x: Inputs, as `DataLandscape` takes them; None with a `DataLandscape`.
        y: Targets; None with a `DataLandscape`.
        v: The vector: flat, or an array for each variable.
        **options: `sample_weight`, `batch_size`, `training`, `variables`: see `DataLandscape`.

    Returns:
        The product in the form of `v`, float64.

    Raises:
        ValueError: A layer has no second derivative, or `v` has not the weights' size.

    Example:
        >>> model.compile(optimizer="sgd", loss="mse")
        >>> ones = [np.ones(v.shape) for v in model.trainable_variables]
        >>> [p.shape for p in keras_gradopt.curvature.hvp(model, x, y, v=ones)]
        [(5, 8), (8,), (8, 1), (1,)]

    References:
        Pearlmutter. Fast exact multiplication by the Hessian. Neural Computation 6, 1994.
    """
    return _product(model, x, y, v, "hessian", options)


def ggnvp(
    model: Any, x: Any = None, y: Any = None, *, v: Vector, **options: Unpack[Options]
) -> Vector:
    r"""The generalised Gauss-Newton matrix times a vector.

    Use it where directions of negative curvature are to be left out. With the Jacobian $J$ of the
    model's outputs and the Hessian $H$ of the loss in them it is $J^T H J v$.

    Args:
        model: A compiled model, or a `DataLandscape` of one.
        x: Inputs, as `DataLandscape` takes them; None with a `DataLandscape`.
        y: Targets; None with a `DataLandscape`.
        v: The vector: flat, or an array for each variable.
        **options: `sample_weight`, `batch_size`, `training`, `variables`: see `DataLandscape`.

    Returns:
        The product in the form of `v`, float64.

    Raises:
        ValueError: `v` has not the weights' size.

    Example:
        >>> model.compile(optimizer="sgd", loss="mse")
        >>> v = np.ones(57)
        >>> product = keras_gradopt.curvature.ggnvp(model, x, y, v=v)
        >>> bool(v @ product > 0)
        True

    References:
        Schraudolph. Fast curvature matrix-vector products for second-order gradient descent.
        Neural Computation 14, 2002.
    """
    return _product(model, x, y, v, "gauss_newton", options)


def fvp(
    model: Any, x: Any = None, y: Any = None, *, v: Vector, **options: Unpack[Options]
) -> Vector:
    r"""The Fisher information of the model's predictions times a vector.

    Use it for natural gradients and to weigh parameters. With predictions $p(y|x, w)$ and the
    inputs of the data it is $E_x E_{y \sim p}[\nabla \log p\, \nabla \log p^T]\, v$, the
    expectation over $y$ taken exactly.

    Args:
        model: A compiled model whose loss is a likelihood, or a `DataLandscape` of one.
        x: Inputs, as `DataLandscape` takes them; None with a `DataLandscape`.
        y: Targets, which give shapes only; None with a `DataLandscape`.
        v: The vector: flat, or an array for each variable.
        **options: `sample_weight`, `batch_size`, `training`, `variables`: see `DataLandscape`.

    Returns:
        The product in the form of `v`, float64.

    Raises:
        ValueError: The loss is no likelihood that is known, or `v` has not the weights' size.

    Example:
        >>> model.compile(optimizer="sgd", loss="mse")
        >>> v = np.ones(57)
        >>> product = keras_gradopt.curvature.fvp(model, x, y, v=v)
        >>> bool(v @ product > 0)
        True

    References:
        Martens. New insights and perspectives on the natural gradient method. JMLR 21, 2020,
        Sections 5 and 9.
    """
    return _product(model, x, y, v, "fisher", options)


def _product(model: Any, x: Any, y: Any, v: Vector, curvature: Curvature, options: Any) -> Vector:
    if isinstance(model, DataLandscape):
        landscape = landscape_of(model, x, y, options)
        if landscape.curvature != curvature:
            raise ValueError(
                f"The DataLandscape was made with curvature={landscape.curvature!r}: make one with "
                f"curvature={curvature!r}, or give the model and the data."
            )
    else:
        landscape = DataLandscape(model, x, y, **{**options, "curvature": curvature})
    flat = v if isinstance(v, np.ndarray) and v.ndim == 1 else landscape.flat(list(v))
    if flat.shape != (landscape.size,):
        raise ValueError(
            f"v must have as many entries as the weights, {landscape.size}, in arrays of shapes "
            f"{landscape.shapes} or flat; received {flat.size}."
        )
    found = landscape.product(flat)
    return found if flat is v else landscape.arrays(found)
