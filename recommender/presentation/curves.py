"""Loss curves made ready to be drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# Minibatch losses are averaged over at least so many steps, and over a share of a longer curve.
SMOOTHING = 8
SMOOTHING_SHARE = 0.01
# Points that are kept of one curve.
MOST_POINTS = 400

Floats = NDArray[np.float64]


def smoothed(losses: Sequence[float]) -> tuple[Floats, Floats]:
    """Steps and mean losses of a curve, at most `MOST_POINTS` of them.

    Args:
        losses: Minibatch loss before each step; what follows the first that is not finite is left
            out.

    Returns:
        The last step of each mean, counted from 1, and the means.
    """
    values = np.asarray(losses, np.float64)
    broken = np.flatnonzero(~np.isfinite(values))
    values = values[: broken[0]] if len(broken) else values
    if not len(values):
        return np.zeros(0), values
    width = min(max(SMOOTHING, round(SMOOTHING_SHARE * len(values))), len(values))
    means = np.convolve(values / width, np.ones(width), mode="valid")
    kept = np.unique(np.linspace(0, len(means) - 1, min(MOST_POINTS, len(means))).astype(int))
    return (kept + width).astype(np.float64), means[kept]
