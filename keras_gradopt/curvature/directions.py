"""Two directions in the space of weights that a surface is drawn on."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from keras_gradopt.curvature.data_landscape import DataLandscape
from keras_gradopt.curvature.eigenpairs import extreme

Directions = Literal["hessian", "random", "path"]


def two_directions(
    landscape: DataLandscape, kind: Directions, path: np.ndarray | None, product: Any, seed: int
) -> tuple[np.ndarray, tuple[str, str]]:
    """Two directions, shape (2, size), and what to call them.

    Args:
        landscape: Whose weights they start from.
        kind: See `surface`.
        path: Weights on the way, shape (points, size); needed for `"path"`.
        product: The curvature's, for `"hessian"`.
        seed: Of random directions and of Lanczos' start.
    """
    rng = np.random.default_rng(seed)
    if kind == "hessian":
        start = rng.normal(size=landscape.size)
        pairs = extreme(landscape, product, start, 2, "largest", 1e-2, 150)
        first, second = (f"{v:.3g}" for v in pairs.values)
        return pairs.vectors, (f"eigenvalue {first}", f"eigenvalue {second}")
    if kind == "random":
        drawn = np.stack([filter_normalised(landscape, rng) for _ in range(2)])
        if np.any(np.linalg.norm(drawn, axis=1) == 0):
            raise ValueError(
                "directions='random' scales each filter to the weights', but all kernels are 0. "
                "Take directions='hessian'."
            )
        return drawn, ("random direction 1", "random direction 2")
    if path is None or len(path) < 3:
        raise ValueError(
            "directions='path' are the two main components of a path: give path, the weights at "
            "three points at least."
        )
    _, sizes, components = np.linalg.svd(path - landscape.position, full_matrices=False)
    shares = sizes**2 / np.sum(sizes**2)
    return components[:2], tuple(f"component of {share:.1%}" for share in shares[:2])  # type: ignore[return-value]


def filter_normalised(landscape: DataLandscape, rng: np.random.Generator) -> np.ndarray:
    """A Gaussian direction of which each filter has the norm of the weights' filter.

    A filter is what leads to one unit, the last axis. Biases and the scales of normalisation,
    which are vectors, stay.
    """
    pieces = []
    for w in landscape.arrays(landscape.position):
        d = rng.normal(size=w.shape)
        if w.ndim < 2:
            pieces.append(np.zeros_like(w))
            continue
        axes = tuple(range(w.ndim - 1))
        norms = np.sqrt(np.sum(d**2, axis=axes))
        pieces.append(d / norms * np.sqrt(np.sum(w**2, axis=axes)))
    return landscape.flat(pieces)
