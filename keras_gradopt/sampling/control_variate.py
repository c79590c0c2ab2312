"""ControlVariate: a mean of samples, corrected by what is known exactly about another."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import keras
from keras import ops

from keras_gradopt.arguments import Arguments
from keras_gradopt.ranges import Range
from keras_gradopt.readings import along_rows

Tensor = Any


class ControlVariate(Arguments):
    r"""Lowers the variance of an estimated gradient by a correlated one whose mean is known.

    Use it in a training loop or `train_step` of your own whose gradient is a mean of few noisy
    samples: score-function (REINFORCE) gradients, with the score itself as the control; gradients
    through samples, with those of a Taylor expansion; examples' gradients, with those of a cheap
    surrogate whose mean over all data is known. For samples $f_i$ of the estimator, samples $h_i$
    of the control, drawn together, and the control's mean $\mu = E[h]$,

    $$\hat f = \frac{1}{n} \sum_{i=1}^{n} \big( f_i - c_i (h_i - \mu) \big), \quad
      c_i = \frac{\sum_{j \ne i} (f_j - \bar f_{-i}) (h_j - \bar h_{-i})}
                 {\sum_{j \ne i} (h_j - \bar h_{-i})^2}$$

    The best coefficient is $\mathrm{Cov}(f, h) / \mathrm{Var}(h)$, which leaves the share
    $1 - \rho^2$ of the variance for a correlation $\rho$. Each sample's coefficient comes from the
    other samples (bars are means over those), so it does not depend on the sample that it corrects,
    and the estimate is unbiased for any number of samples; one coefficient from all would be off by
    the order of $1/n$. Where the other samples of the control are all alike, it is 0.

    Values of several entries, and trees of them, have one coefficient for all, whose sums run over
    the entries as well: few samples tell one number better than many. It is made of `keras.ops`
    alone and may be compiled and differentiated.

    Args:
        coefficient: $c$, a number that is not estimated; None estimates it. 1 is the difference
            estimator.
        elementwise: Whether each entry has a coefficient of its own, which pays where entries
            differ in how they are correlated and there are tens of samples at least.

    Raises:
        ValueError: In a call, there are fewer than three samples (two, where the coefficient is
            given), or samples and controls differ in shape.

    Example:
        >>> u = keras.random.uniform((100,), seed=0)
        >>> estimate = ControlVariate()(ops.exp(u), u, control_mean=0.5)
        >>> abs(float(estimate.mean) - 1.71828) < 0.03
        True
        >>> float(estimate.variance_reduction) > 30
        True

    References:
        Owen. Monte Carlo theory, methods and examples. 2013, Section 8.9 (control variates, and the
        bias of an estimated coefficient). Greensmith, Bartlett, Baxter. Variance Reduction
        Techniques for Gradient Estimates in Reinforcement Learning. JMLR 5, 2004 (the score as a
        control). Kool, van Hoof, Welling. Buy 4 REINFORCE Samples, Get a Baseline for
        Free! ICLR workshop 2019 (`advantages`).
    """

    ranges: ClassVar[dict[str, Range]] = {
        "coefficient": Range(-float("inf"), low_included=False, usual="1 is usual.").fixed()
    }

    coefficient: float | None
    elementwise: bool

    def __init__(self, coefficient: float | None = None, elementwise: bool = False) -> None:
        self.declare(coefficient=coefficient, elementwise=bool(elementwise))

    def __call__(self, samples: Any, controls: Any, control_mean: Any = 0.0) -> Estimate:
        """The corrected mean.

        Args:
            samples: Of the estimator, of shape (samples, ...), or a tree of such arrays.
            controls: Of the control, in the same tree and of the same shapes.
            control_mean: The control's exact mean: a number, or a tree without the first axis.

        Returns:
            An `Estimate`.
        """
        fs, hs = _flat(samples), _flat(controls)
        count = _count(fs, hs, 3 if self.coefficient is None else 2)
        means = _flat(control_mean)
        if len(means) == 1:
            means = means * len(fs)
        coefficients = self._coefficients(fs, hs, count)
        corrected = [
            f - c * (h - ops.cast(mu, h.dtype))
            for f, h, mu, c in zip(fs, hs, means, coefficients, strict=True)
        ]

        def packed(leaves: list[Tensor]) -> Any:
            return keras.tree.pack_sequence_as(samples, leaves)

        return Estimate(
            mean=packed([ops.mean(r, axis=0) for r in corrected]),
            standard_error=packed([ops.sqrt(_variance(r, count) / count) for r in corrected]),
            coefficient=(
                packed([ops.mean(c, axis=0) for c in coefficients])
                if self.elementwise
                else ops.mean(coefficients[0])
            ),
            variance_reduction=_ratio(
                sum(ops.sum(_variance(f, count)) for f in fs),
                sum(ops.sum(_variance(r, count)) for r in corrected),
            ),
        )

    def _coefficients(self, fs: list[Tensor], hs: list[Tensor], count: Any) -> list[Tensor]:
        """One per sample, shaped to multiply the samples."""
        if self.coefficient is not None:
            return [ops.full_like(h, self.coefficient) for h in hs]
        products, squares = [], []
        for f, h in zip(fs, hs, strict=True):
            h_centred = h - ops.mean(h, axis=0)
            products.append((f - ops.mean(f, axis=0)) * h_centred)
            squares.append(h_centred * h_centred)
        if self.elementwise:
            return [_without_own(p, s, count) for p, s in zip(products, squares, strict=True)]
        pooled = _without_own(_per_sample(products), _per_sample(squares), count)
        return [along_rows(pooled, len(h.shape)) for h in hs]

    @staticmethod
    def advantages(rewards: Tensor) -> Tensor:
        r"""Rewards less the mean of the others: $R_i - \frac{1}{n-1} \sum_{j \ne i} R_j$.

        The control variate of score-function gradients that needs no gradient per sample: with
        actions drawn from $p$, the gradient of `-mean(advantages(rewards) * log_p)` is an unbiased
        estimate of the gradient of minus the expected reward.

        Args:
            rewards: Of shape (samples, ...), at least 2 samples.

        Returns:
            The same shape. No gradient goes through it.

        Raises:
            ValueError: There are fewer than two samples.
        """
        rewards = ops.stop_gradient(ops.convert_to_tensor(rewards))
        count = _count([rewards], [rewards], 2)
        return (rewards - ops.mean(rewards, axis=0)) * (count / (count - 1))


class Estimate(NamedTuple):
    """What `ControlVariate` returns.

    Attributes:
        mean: The corrected mean, in the tree of the samples, without their first axis.
        standard_error: Of each entry of `mean`: from the corrected samples' spread, which leaves
            out that they have the coefficients' samples in common, an effect of order 1/samples.
        coefficient: The mean of the samples' coefficients: a scalar, or a tree like `mean`.
        variance_reduction: How many times more samples the plain mean needs for the same variance
            in total, from this sample: a scalar.
    """

    mean: Any
    standard_error: Any
    coefficient: Any
    variance_reduction: Tensor


def _flat(tree: Any) -> list[Tensor]:
    """The leaves as tensors, float32 at least."""
    tensors = [ops.convert_to_tensor(leaf) for leaf in keras.tree.flatten(tree)]
    return [ops.cast(x, keras.backend.result_type(x.dtype, "float32")) for x in tensors]


def _count(fs: list[Tensor], hs: list[Tensor], least: int) -> Any:
    """How many samples there are: a number, or a tensor where the shape does not say."""
    shapes, control_shapes = ([tuple(x.shape) for x in xs] for xs in (fs, hs))
    counts = {shape[0] if shape else 0 for shape in shapes}
    known = counts != {None}
    if shapes != control_shapes or len(counts) != 1 or (known and min(counts) < least):
        raise ValueError(
            f"There must be at least {least} samples along the first axis, of the same shapes as "
            f"the controls; received the shapes {shapes} and {control_shapes}."
        )
    return counts.pop() if known else ops.cast(ops.shape(fs[0])[0], fs[0].dtype)


def _per_sample(xs: list[Tensor]) -> Tensor:
    """Sums over all entries of each sample."""
    return sum(ops.sum(x, axis=tuple(range(1, len(x.shape)))) if x.shape[1:] else x for x in xs)


def _without_own(products: Tensor, squares: Tensor, count: Any) -> Tensor:
    """Each sample's regression coefficient from the other samples.

    Sums of products about the others' means are those about all means, less count / (count - 1)
    times the sample's own product.
    """
    share = count / (count - 1)
    covariance = ops.sum(products, axis=0) - share * products
    total = ops.sum(squares, axis=0)
    variance = total - share * squares
    # Below this the difference is rounding.
    varies = variance > 1e-5 * total
    return ops.where(varies, covariance, 0.0) / ops.where(varies, variance, 1.0)


def _variance(xs: Tensor, count: Any) -> Tensor:
    centred = xs - ops.mean(xs, axis=0)
    return ops.sum(centred * centred, axis=0) / (count - 1)


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    return ops.where(b > 0, a / ops.where(b > 0, b, 1.0), float("inf"))
