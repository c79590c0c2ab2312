"""EvolutionStrategy: a smoothed gradient from the losses of a cloud of points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from keras import ops

from keras_gradopt.arguments import Hyperparameters, positive_int
from keras_gradopt.gradient_free import SEED, GradientFree
from keras_gradopt.ranges import DECAY_RATE, EPSILON, POSITIVE, Range
from keras_gradopt.ranking import centred_ranks
from keras_gradopt.slot import Slot
from keras_gradopt.tensors import one_minus_power

Tensor = Any


class EvolutionStrategy(GradientFree):
    r"""Follows the ranks of the losses of a cloud of points around the weights.

    Use it on large models without a usable gradient, with many evaluations to spend, which run side
    by side: policies, hard thresholds, black boxes inside a model; the model must be bound:
    `keras_gradopt.bind(model)`. With directions $\epsilon_i \sim N(0, I)$ in pairs of opposite sign
    around the weights $w$, and losses $L(w + \sigma \epsilon_i)$ of which the $P$ ranks $r_i$ from
    0 to $P - 1$ count:

    $$u_i = \frac{r_i}{P - 1} - \frac{1}{2}, \quad
      g = \frac{1}{P \sigma} \sum_{i=1}^P u_i \epsilon_i$$

    estimates the gradient of the ranks' expectation, whatever the losses' scale. Adam's step takes
    it from there:

    $$m \leftarrow \beta_1 m + (1-\beta_1) g, \quad v \leftarrow \beta_2 v + (1-\beta_2) g^2$$
    $$w \leftarrow w - \eta \frac{m / (1-\beta_1^t)}{\sqrt{v / (1-\beta_2^t)} + \epsilon}$$

    Args:
        learning_rate: Step size $\eta$, at least 0: a number or a schedule.
        population_size: Points $P$ per step, an even number of at least 2. A loss costs a third of
            a gradient.
        sigma: $\sigma$ above 0, in units of the weights: a number or a schedule.
        beta_1: Decay of the first moment, in [0, 1): a number or a schedule.
        beta_2: Decay of the second moment, in [0, 1): a number or a schedule.
        epsilon: $\epsilon$ above 0, in units of $g$, which is about $1 / (\sigma \sqrt{12 P})$.
        seed: Of the draws, at least 0.
        **kwargs: Common arguments, see `keras_gradopt.Optimizer`; clipping, weight decay and rates
            of groups are refused.

    Raises:
        ValueError: `population_size` is odd or below 2.

    Example:
        >>> optimizer = EvolutionStrategy(0.05, population_size=20, sigma=0.1)
        >>> found = optimizer.minimize(lambda w: float(sum((w - 1) ** 2)), [0.0, 3.0], 3000)
        >>> bool(found.fun < 1e-2)
        True

    References:
        Salimans, Ho, Chen, Sidor, Sutskever. Evolution Strategies as a Scalable Alternative to
        Reinforcement Learning. 2017, Algorithm 1 with mirrored sampling and rank shaping (section
        2.1), and Adam as in its experiments. Points without a finite loss share the worst ranks.
    """

    wants_whole_data = False
    gradient_evaluations_per_step = 17.0
    ranges: ClassVar[dict[str, Range]] = {
        "sigma": POSITIVE,
        "beta_1": DECAY_RATE,
        "beta_2": DECAY_RATE,
        "epsilon": EPSILON,
    }

    def __init__(
        self,
        learning_rate: Any = 0.01,
        population_size: int = 50,
        sigma: Any = 0.05,
        beta_1: Any = 0.9,
        beta_2: Any = 0.999,
        epsilon: Any = 1e-8,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, seed=seed, **kwargs)
        population_size = positive_int("population_size", population_size, least=2)
        if population_size % 2:
            raise ValueError(
                "population_size must be even, for points come in pairs on either side of the "
                f"weights; received {population_size}."
            )
        self.declare(
            population_size=population_size,
            sigma=sigma,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
        )
        # And the loss that Keras reports.
        self.gradient_evaluations_per_step = (1 + population_size) / 3

    def vector_slots(self, size: int) -> Sequence[Slot]:
        """Both moments."""
        return (Slot("momentum", shape=(size,)), Slot("velocity", shape=(size,)))

    def chunk_size(self, size: int) -> int:
        """Pairs of points on either side."""
        return self.even_chunk(self.population_size, size, multiple=2)

    def most_chunks(self, size: int) -> int:
        """All pairs."""
        return self.population_size // self.chunk_size(size)

    def sample(
        self, w: Tensor, shared: dict[str, Tensor], h: Hyperparameters, chunk: Any
    ) -> Tensor:
        """Points around the weights, then those opposite."""
        ahead = h.sigma * self._directions(w, shared, h, chunk)
        return ops.concatenate([w + ahead, w - ahead])

    def learn(
        self, w: Tensor, losses: Tensor, shared: dict[str, Tensor], h: Hyperparameters
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Adam's step along the estimate."""
        u = centred_ranks(losses[0])
        g = ops.zeros_like(w)
        size = self.chunk_size(self.size)
        for chunk in range(self.most_chunks(self.size)):
            own = u[chunk * size : (chunk + 1) * size]
            across = own[: size // 2] - own[size // 2 :]
            g = g + ops.sum(across[:, None] * self._directions(w, shared, h, chunk), axis=0)
        g = g / (self.population_size * h.sigma)
        m = h.beta_1 * shared["momentum"] + (1 - h.beta_1) * g
        v = h.beta_2 * shared["velocity"] + (1 - h.beta_2) * g * g
        mean = m / one_minus_power(h.beta_1, h.step)
        scale = ops.sqrt(v / one_minus_power(h.beta_2, h.step))
        w = w - h.learning_rate * mean / (scale + h.epsilon)
        return w, {**shared, "momentum": m, "velocity": v}

    def _directions(
        self, w: Tensor, shared: dict[str, Tensor], h: Hyperparameters, chunk: Any
    ) -> Tensor:
        pairs = self.chunk_size(self.size) // 2
        return ops.cast(h.normal((pairs, self.size), shared[SEED], chunk), w.dtype)
