"""How noisy minibatch gradients are, from the norms of gradients at two batch sizes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def noise_and_signal(
    small_squared_norms: Any, big_squared_norm: Any, small: int, big: int
) -> tuple[float, float]:
    r"""Unbiased estimates of the trace of the gradients' covariance and of the squared gradient.

    With $G_B$ the mean gradient of $B$ examples drawn independently, $G$ its expectation and
    $\Sigma$ the covariance of one example's gradient, $E|G_B|^2 = |G|^2 + \mathrm{tr}(\Sigma) / B$.
    Two sizes give two equations:

    $$\mathrm{tr}(\Sigma) \approx \frac{|G_b|^2 - |G_B|^2}{1 / b - 1 / B}, \quad
      |G|^2 \approx \frac{B |G_B|^2 - b |G_b|^2}{B - b}$$

    Args:
        small_squared_norms: $|G_b|^2$ of one or more minibatches of the small size; their mean
            counts.
        big_squared_norm: $|G_B|^2$ of the big size, of one or more.
        small: $b$, at least 1.
        big: $B$, above $b$.

    Returns:
        The trace, and the squared norm, which may come out below 0 where noise outweighs it.

    Raises:
        ValueError: `big` is not above `small`, or `small` is below 1.

    Example:
        >>> noise_and_signal([5.0, 7.0], 3.0, small=2, big=8)
        (8.0, 2.0)

    References:
        McCandlish, Kaplan, Amodei, OpenAI Dota Team. An Empirical Model of Large-Batch Training.
        arXiv:1812.06162, 2018, Appendix A.1.
    """
    if not 1 <= small < big:
        raise ValueError(f"small must be at least 1 and big above it, received {small} and {big}.")
    low = float(np.mean(np.asarray(small_squared_norms, "float64")))
    high = float(np.mean(np.asarray(big_squared_norm, "float64")))
    trace = (low - high) / (1 / small - 1 / big)
    return trace, (big * high - small * low) / (big - small)


def noise_scale(trace: float, squared_gradient: float) -> float:
    r"""$B_{\mathrm{simple}} = \mathrm{tr}(\Sigma) / |G|^2$: below it, larger batches pay.

    Both are smoothed before they come here: a ratio of single estimates is far from the ratio of
    what they estimate.

    Args:
        trace: Of the gradients' covariance.
        squared_gradient: The squared norm of the expected gradient.

    Returns:
        At least 0; infinite where no gradient stands out of the noise, NaN where there is neither.

    References:
        McCandlish, Kaplan, Amodei, OpenAI Dota Team. An Empirical Model of Large-Batch Training.
        arXiv:1812.06162, 2018, equation 2.9.
    """
    if math.isnan(trace) or math.isnan(squared_gradient):
        return math.nan
    if squared_gradient <= 0.0:
        return math.inf if trace > 0.0 else math.nan
    return max(trace, 0.0) / squared_gradient
