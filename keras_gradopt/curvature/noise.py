"""gradient_noise_scale: the batch size at which noise and signal of the gradient are equal."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Unpack

import numpy as np

from keras_gradopt.curvature.data_landscape import Options, landscape_of
from keras_gradopt.curvature.hutchinson import Estimate


@dataclasses.dataclass(frozen=True)
class NoiseScale:
    r"""How noisy the gradient of a minibatch is.

    Attributes:
        value: $B = \operatorname{tr} \Sigma / |G|^2$, in rows; infinite where $|G|^2$ is not seen.
        standard_error: Its standard error by the jackknife over minibatches; infinite with it.
        variance: $\operatorname{tr} \Sigma$, the variance of one row's gradient, summed over its
            entries.
        signal: $|G|^2$, the squared norm of the true gradient; an unbiased estimate, which may come
            out negative where it is small.
        groups: Minibatches that were compared.
    """

    value: float
    standard_error: float
    variance: Estimate
    signal: Estimate
    groups: int

    @property
    def is_known(self) -> bool:
        """Whether the true gradient stands out: its squared norm is above two standard errors."""
        return self.signal.value > 2 * self.signal.standard_error

    @property
    def at_least(self) -> float:
        """A lower bound at two standard errors of the squared norm."""
        above = self.signal.value + 2 * self.signal.standard_error
        return max(self.variance.value, 0.0) / above if above > 0 else math.inf

    def __str__(self) -> str:
        if self.is_known:
            return f"{self.value:.3g} ± {self.standard_error:.1g} rows"
        bound = f"at least {self.at_least:.3g}" if math.isfinite(self.at_least) else "infinite"
        return f"{bound} (the gradient does not stand out of its noise)"


def gradient_noise_scale(
    model: Any, x: Any = None, y: Any = None, **options: Unpack[Options]
) -> NoiseScale:
    r"""The gradient noise scale: about the largest batch size that still pays.

    Use it to choose a batch size: well below it, twice the batch saves half of the steps; well
    above it, it saves none. With rows' gradients of mean $G$ and covariance $\Sigma$

    $$B_{\mathrm{simple}} = \frac{\operatorname{tr} \Sigma}{|G|^2}.$$

    From $K$ minibatches of $n_k$ rows with gradients $g_k$ and mean $\bar g$ of all $N$ rows,
    without bias

    $$\operatorname{tr} \Sigma \approx \frac{\sum_k n_k |g_k - \bar g|^2}{K - 1}, \qquad
    |G|^2 \approx |\bar g|^2 - \frac{\operatorname{tr} \Sigma}{N},$$

    which for equal minibatches is the paper's estimate with $B_{\mathrm{small}} = n_k$ and
    $B_{\mathrm{big}} = N$, averaged over the small ones. Rows must be in random order: minibatches
    of one class each differ by more than noise. At a minimum over these very rows their mean
    gradient is 0, whatever the noise, and the scale infinite. It costs two gradients over the data.
    Dropout's noise is not in it, with `training=True` neither.

    Args:
        model: A compiled model, or a `DataLandscape` of one.
        x: Inputs, as `DataLandscape` takes them; None with a `DataLandscape`.
        y: Targets; None with a `DataLandscape`.
        **options: `sample_weight`, `batch_size`, `training`, `variables`: see `DataLandscape`.
            Where `batch_size` is left out, the data is cut into some 32 minibatches; small ones
            tell more.

    Returns:
        `NoiseScale`.

    Raises:
        ValueError: There are fewer than three minibatches.

    Example:
        >>> model.compile(optimizer="sgd", loss="mse")
        >>> noise = keras_gradopt.curvature.gradient_noise_scale(model, x, y, batch_size=2)
        >>> noise.groups, noise.is_known
        (32, True)

    References:
        McCandlish, Kaplan, Amodei, the OpenAI Dota team. An Empirical Model of Large-Batch
        Training. arXiv:1812.06162, 2018, Appendix A.1. Standard errors by the jackknife are ours:
        Efron, Stein. The jackknife estimate of variance. Annals of Statistics 9, 1981.
    """
    landscape = landscape_of(model, x, y, options)
    if "batch_size" not in options:
        landscape = landscape.in_groups(32)
    return noise_scale(landscape.gradients, landscape.data.sizes)


def noise_scale(gradients: Callable[[], Iterable[np.ndarray]], sizes: Sequence[int]) -> NoiseScale:
    """The estimate from gradients of minibatches.

    Args:
        gradients: Gives the minibatches' gradients in order, each time it is called; it is called
            twice, so that no two of them need be in memory.
        sizes: Rows of each minibatch.
    """
    if len(sizes) < 3:
        raise ValueError(
            f"The noise scale compares minibatches, at least 3, but {sum(sizes)} rows in "
            f"minibatches of {sizes[0]} are {len(sizes)}. Give more rows, or a smaller batch_size."
        )
    n = np.array(sizes, "float64")
    mean: Any = sum(share * g for share, g in zip(n / n.sum(), gradients(), strict=True))
    apart = [(_square(g - mean), float((g - mean) @ mean)) for g in gradients()]
    squares, along = np.array(apart).T
    spread, length = float(n @ squares), _square(mean)
    variance, signal = _estimates(spread, length, len(n), n.sum())
    # The same without each minibatch in turn: the mean moves by -share * (g_k - mean).
    share = n / (n.sum() - n)
    variances, signals = _estimates(
        spread - (n + share * n) * squares,
        length - 2 * share * along + share**2 * squares,
        len(n) - 1,
        n.sum() - n,
    )
    known = signal > 0 and bool(np.all(signals > 0))
    return NoiseScale(
        value=float(variance / signal) if signal > 0 else math.inf,
        standard_error=_jackknife(variances / signals) if known else math.inf,
        variance=Estimate(float(variance), _jackknife(variances)),
        signal=Estimate(float(signal), _jackknife(signals)),
        groups=len(n),
    )


def _estimates(spread: Any, length: Any, groups: int, rows: Any) -> tuple[Any, Any]:
    """Variance of one row's gradient, and the true gradient's squared norm.

    Args:
        spread: Squared distances of the minibatches' gradients from their mean, times their rows.
        length: The mean's squared norm.
        groups: How many minibatches.
        rows: Rows of all.
    """
    variance = spread / (groups - 1)
    return variance, length - variance / rows


def _jackknife(left_out: np.ndarray) -> float:
    """The standard error of an estimate from what it is without each group in turn."""
    return float(np.sqrt((len(left_out) - 1) * np.var(left_out)))


def _square(g: np.ndarray) -> float:
    return float(g @ g)
