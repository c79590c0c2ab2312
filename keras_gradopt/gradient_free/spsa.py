"""SPSA: a gradient from two losses, along a random direction."""

from __future__ import annotations

from typing import Any, ClassVar

from keras import ops

from keras_gradopt.arguments import Hyperparameters, positive_int
from keras_gradopt.gradient_free import SEED, GradientFree
from keras_gradopt.ranges import NON_NEGATIVE, POSITIVE, Range

Tensor = Any


class SPSA(GradientFree):
    r"""Estimates the gradient from two losses, whatever the number of parameters.

    Use it where the loss has no gradient and each evaluation is noisy or dear: two of them make a
    step; the model must be bound: `keras_gradopt.bind(model)`. With signs $\Delta_k$ drawn anew for
    each step $k = 0, 1, \ldots$ and each entry, and $\Delta_k^{-1} = \Delta_k$:

    $$\hat g_k = \frac{L(w_k + c_k \Delta_k) - L(w_k - c_k \Delta_k)}{2 c_k} \Delta_k^{-1}$$
    $$w_{k+1} = w_k - a_k \hat g_k, \quad a_k = \frac{a}{(A + k + 1)^\alpha}, \quad
      c_k = \frac{c}{(k + 1)^\gamma}$$

    $\hat g_k$ may be the mean of several such estimates.

    Args:
        learning_rate: $a$, at least 0: a number or a schedule. With the decay below, a step of
            typical size s early in training wants $a = s (A + 1)^\alpha / |\hat g|$.
        perturbation: $c$ above 0, in units of the weights: a number or a schedule. About the
            standard deviation of the loss' noise; small where there is none.
        stability: $A$, at least 0: about a tenth of the steps planned, which keeps early steps
            small.
        learning_rate_decay: $\alpha$, at least 0. 0.602 is usual, 1 best in the long run, 0 leaves
            the rate as it is.
        perturbation_decay: $\gamma$, at least 0: 0.101 is usual, with $\alpha = 1$ it is 1/6.
        averages: Estimates whose mean makes a step, at least 1: two losses each.
        seed: Of the draws, at least 0.
        **kwargs: Common arguments, see `keras_gradopt.Optimizer`; clipping, weight decay and rates
            of groups are refused.

    Example:
        >>> optimizer = SPSA(0.2, perturbation=0.01, learning_rate_decay=0.0)
        >>> found = optimizer.minimize(lambda w: float(sum((w - 1) ** 2)), [0.0, 3.0], 200)
        >>> bool(found.fun < 1e-3)
        True

    References:
        Spall. Multivariate Stochastic Approximation Using a Simultaneous Perturbation Gradient
        Approximation. IEEE Transactions on Automatic Control 1992, equations (2.1) to (2.3), with
        averaged estimates (section V); gains as in Spall. Implementation of the Simultaneous
        Perturbation Algorithm for Stochastic Optimization. 1998, section III. A minibatch is the
        same for both losses, and its noise cancels in their difference.
    """

    wants_whole_data = False
    ranges: ClassVar[dict[str, Range]] = {
        "perturbation": POSITIVE,
        "stability": NON_NEGATIVE.fixed(),
        "learning_rate_decay": NON_NEGATIVE.fixed(),
        "perturbation_decay": NON_NEGATIVE.fixed(),
    }

    def __init__(
        self,
        learning_rate: Any = 0.01,
        perturbation: Any = 0.01,
        stability: float = 0.0,
        learning_rate_decay: float = 0.602,
        perturbation_decay: float = 0.101,
        averages: int = 1,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, seed=seed, **kwargs)
        self.declare(
            perturbation=perturbation,
            stability=stability,
            learning_rate_decay=learning_rate_decay,
            perturbation_decay=perturbation_decay,
            averages=positive_int("averages", averages),
        )
        # And the loss that Keras reports.
        self.gradient_evaluations_per_step = (1 + 2 * self.averages) / 3

    def chunk_size(self, size: int) -> int:
        """Pairs of points on either side."""
        return self.even_chunk(2 * self.averages, size, multiple=2)

    def most_chunks(self, size: int) -> int:
        """All pairs."""
        return 2 * self.averages // self.chunk_size(size)

    def sample(
        self, w: Tensor, shared: dict[str, Tensor], h: Hyperparameters, chunk: Any
    ) -> Tensor:
        """Points on one side of the weights, then those opposite."""
        ahead = self._perturbation(h) * self._signs(w, shared, h, chunk)
        return ops.concatenate([w + ahead, w - ahead])

    def learn(
        self, w: Tensor, losses: Tensor, shared: dict[str, Tensor], h: Hyperparameters
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """A step along the mean of the estimates."""
        total = ops.zeros_like(w)
        size = self.chunk_size(self.size)
        for chunk in range(self.most_chunks(self.size)):
            own = losses[0, chunk * size : (chunk + 1) * size]
            slope = (own[: size // 2] - own[size // 2 :]) / (2 * self._perturbation(h))
            # A side without a finite loss says nothing of the slope.
            slope = ops.where(ops.isfinite(slope), slope, 0.0)
            total = total + ops.sum(slope[:, None] * self._signs(w, shared, h, chunk), axis=0)
        late = (self.stability + h.step) ** self.learning_rate_decay
        return w - h.learning_rate / late * total / self.averages, shared

    def _perturbation(self, h: Hyperparameters) -> Any:
        return h.perturbation / h.step**self.perturbation_decay

    def _signs(
        self, w: Tensor, shared: dict[str, Tensor], h: Hyperparameters, chunk: Any
    ) -> Tensor:
        pairs = self.chunk_size(self.size) // 2
        draws = h.normal((pairs, self.size), shared[SEED], chunk)
        return ops.cast(ops.where(draws < 0, -1.0, 1.0), w.dtype)
