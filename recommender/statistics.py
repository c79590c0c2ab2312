"""Small statistics that SciPy does not offer in this form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PairedDifference:
    """How much lower `a` is than `b`, measured on the same validation blocks.

    Attributes:
        gap: Mean of `b - a`; above 0 when `a` is better.
        error: Standard error of the gap over the blocks (infinite with fewer than two).
        relative: `gap` as a fraction of the mean of `b`.
    """

    gap: float
    error: float
    relative: float

    @property
    def clear(self) -> bool:
        """Whether the gap exceeds twice its standard error, in either direction."""
        return abs(self.gap) > 2 * self.error


def paired_difference(a: Sequence[float], b: Sequence[float]) -> PairedDifference:
    """Compare two candidates on the same validation blocks.

    Args:
        a: Mean loss of the first candidate on each block.
        b: The same for the second; same length.

    Returns:
        The paired difference; a non-finite side loses with an infinite gap.

    Example:
        >>> paired_difference([1.0, 2.0], [2.0, 3.0]).relative
        0.4
    """
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if not np.isfinite(first).all() or not np.isfinite(second).all():
        gap = 0.0
        if np.isfinite(first).all():
            gap = math.inf
        elif np.isfinite(second).all():
            gap = -math.inf
        return PairedDifference(gap, 0.0, gap)
    difference = second - first
    gap = float(difference.mean())
    error = float(difference.std(ddof=1) / math.sqrt(len(difference))) if len(a) > 1 else math.inf
    scale = abs(float(second.mean()))
    return PairedDifference(gap, error, gap / scale if scale > 0 else 0.0)


def first_reach(steps: Sequence[int], losses: Sequence[float], target: float) -> float:
    """The first step at which a curve is at or below the target; infinite when never."""
    for step, loss in zip(steps, losses, strict=True):
        if loss <= target:
            return float(step)
    return math.inf


def time_ratio(
    default: Sequence[tuple[Sequence[int], Sequence[float]]],
    advised: Sequence[tuple[Sequence[int], Sequence[float]]],
) -> float:
    """Steps the advice needs to reach the default's level, per step of the default.

    The target is the default's median best loss over seeds; each side's step is the median over
    its seeds of the first validation at or below the target, a seed that never gets there
    counting as infinite.

    Args:
        default: One (steps, validation losses) curve per seed of the default.
        advised: The same for the advice.

    Returns:
        The ratio: below 1 the advice is faster; infinite when it never gets there.
    """
    target = float(np.median([min(losses) for _, losses in default]))
    ours = float(np.median([first_reach(*curve, target) for curve in advised]))
    theirs = float(np.median([first_reach(*curve, target) for curve in default]))
    return ours / theirs if math.isfinite(ours) else math.inf
