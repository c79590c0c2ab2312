"""BayesianOptimization: a Gaussian process over few parameters, asked where a loss may be lower."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from keras import ops

from keras_gradopt.arguments import Hyperparameters, positive_int
from keras_gradopt.gradient_free import SEED, GradientFree
from keras_gradopt.ranges import FRACTION, POSITIVE, Range
from keras_gradopt.slot import Slot
from keras_gradopt.surrogate import Surrogate, design
from keras_gradopt.tensors import on_host

Tensor = Any
# Dimensions that a Gaussian process learns from some hundred losses.
_MOST_DIMENSIONS = 20


class BayesianOptimization(GradientFree):
    r"""Looks where a model of the loss, learned from all losses seen, expects the most.

    Use it where each loss is dear and few parameters matter, up to about 20, within some hundred
    evaluations. It searches a box around the first weights; the model must be bound:
    `keras_gradopt.bind(model)`. A Gaussian process (Matérn 5/2, a length for each dimension, noise)
    through the losses of the points $x_i$ of the unit box gives a mean $\mu(x)$ and a
    deviation $s(x)$, and the next point is where the expected improvement is largest:

    $$z = \frac{\mu^* - \mu(x)}{s(x)}, \quad \mu^* = \min_i \mu(x_i)$$
    $$EI(x) = s(x) \left( z \Phi(z) + \varphi(z) \right)$$

    A point stands for weights at most $\rho$ from the first weights $w_0$. With more parameters
    than dimensions each of them follows one dimension $b(j)$, drawn by lot in equal shares, with
    a random sign $\sigma_j$:

    $$w_j = w_{0,j} + \rho \sigma_j (2 x_{b(j)} - 1)$$

    so that the box stays the box; what is found is the best among such weights only. After a step
    the model holds the point $x_i$ of the lowest mean, or of the lowest loss during the design that
    comes first: the first weights, then a scrambled Sobol sequence. A step takes the host
    $O(n^3)$ for $n$ losses, tenths of a second at 100 of them: `max_observations` bounds it.

    Args:
        learning_rate: How much of the way to the best point the weights go, in [0, 1]: a number or
            a schedule.
        radius: $\rho$ above 0, half the side of the box in units of the weights. The minimum must
            lie inside; where the loss is far above that of the start in most of a box of many
            dimensions, little is found.
        batch: Points evaluated per step, at least 1. More save steps where evaluations run side by
            side; each is worth less than one chosen after all others.
        embedding_dimensions: Dimensions of the box, from 1 to 200 and no more than parameters;
            "auto" is all parameters, at most 20.
        initial_points: Points of the design, at least 1; None is twice the dimensions, at least 3
            and at most 10.
        max_observations: Losses that are remembered, more than `initial_points`. With one more, the
            older of the two points closest to each other is forgotten.
        seed: Of the design, the lots and the searches, at least 0, below 2**24. Points follow from
            it and from the losses, on every backend alike.
        **kwargs: Common arguments, see `keras_gradopt.Optimizer`; clipping, weight decay and rates
            of groups are refused.

    Raises:
        ValueError: An argument is out of range, or there are fewer parameters than dimensions.
            TensorFlow is to compile the step by XLA, which cannot call the host.

    Example:
        >>> optimizer = BayesianOptimization(radius=4.0, initial_points=4)
        >>> found = optimizer.minimize(lambda w: float(sum((w - 1) ** 2)), [0.0, 3.0], 15)
        >>> bool(found.fun < 1e-2)
        True

    References:
        Jones, Schonlau, Welch. Efficient Global Optimization of Expensive Black-Box Functions.
        Journal of Global Optimization 1998, equation (15), with $\mu^*$ in place of the lowest
        loss, which noise may have lowered.
        Nayebi, Munteanu, Poloczek. A Framework for Bayesian Optimization in Embedded Subspaces.
        ICML 2019, section 3: one dimension for each parameter. Other random embeddings leave the
        box, or must search a polytope.
        Papenmeier, Nardi, Poloczek. Increasing the Scope as You Learn. NeurIPS 2022, section 3.1:
        equal shares.
        Ginsbourger, Le Riche, Carraro. Kriging Is Well-Suited to Parallelize Optimization. 2010,
        section 3: a batch by the kriging believer, which takes the mean for each loss it waits for.
        A loss that is not finite counts as the worst known one: a Gaussian process is told numbers.
    """

    host_step = True
    finds_its_rate = True
    gradient_evaluations_per_step = 2 / 3
    ranges: ClassVar[dict[str, Range]] = {"learning_rate": FRACTION, "radius": POSITIVE.fixed()}

    def __init__(
        self,
        learning_rate: Any = 1.0,
        radius: float = 0.3,
        batch: int = 1,
        embedding_dimensions: int | str = "auto",
        initial_points: int | None = None,
        max_observations: int = 200,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, seed=seed, **kwargs)
        if embedding_dimensions != "auto":
            embedding_dimensions = _dimensions(embedding_dimensions)
        if initial_points is not None:
            initial_points = positive_int("initial_points", initial_points)
        self.declare(
            radius=radius,
            batch=positive_int("batch", batch),
            embedding_dimensions=embedding_dimensions,
            initial_points=initial_points,
            max_observations=positive_int("max_observations", max_observations),
        )
        least = max(initial_points or 10, self.batch)
        if self.max_observations <= least:
            raise ValueError(
                "max_observations must be more than the points of the design (10 unless "
                f"initial_points says so) and of a batch, here {least}; received "
                f"{self.max_observations}. 200 is usual."
            )
        # And the loss that Keras reports.
        self.gradient_evaluations_per_step = (1 + self.batch) / 3

    def vector_slots(self, size: int) -> Sequence[Slot]:
        """Where the box lies, what was seen in it, and what is to be looked at next."""
        dimensions = self.dimensions(size)
        return (
            Slot("start", shape=(size,)),
            Slot("points", shape=(self.max_observations, dimensions)),
            Slot("losses", shape=(self.max_observations,)),
            Slot("count", shape=()),
            Slot("next", shape=(self.batch, dimensions), initial=0.5),
        )

    def dimensions(self, size: int) -> int:
        """Dimensions of the box, for vectors of `size` entries.

        Raises:
            ValueError: There are more of them than entries.
        """
        if self.embedding_dimensions == "auto":
            return min(size, _MOST_DIMENSIONS)
        if self.embedding_dimensions > size:
            raise ValueError(
                f"embedding_dimensions must be no more than the parameters, here {size}; received "
                f'{self.embedding_dimensions}. "auto" is all of them, at most {_MOST_DIMENSIONS}.'
            )
        return int(self.embedding_dimensions)

    def chunk_size(self, size: int) -> int:
        """The whole batch."""
        del size
        return int(self.batch)

    def sample(
        self, w: Tensor, shared: dict[str, Tensor], h: Hyperparameters, chunk: Any
    ) -> Tensor:
        """The weights of the points that are next."""
        del chunk
        return self._weights(self._next(shared), self._start(w, shared), shared, h)

    def learned(
        self, w: Tensor, losses: Tensor, shared: dict[str, Tensor], h: Hyperparameters
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """`learn`, with the worst known loss for each that is not finite."""
        known = ops.arange(self.max_observations, dtype=w.dtype) < shared["count"]
        finite = ops.isfinite(losses)
        worst = ops.maximum(
            ops.max(ops.where(known, shared["losses"], -float("inf"))),
            ops.max(ops.where(finite, losses, -float("inf"))),
        )
        return super().learned(w, ops.where(finite, losses, worst), shared, h)

    def learn(
        self, w: Tensor, losses: Tensor, shared: dict[str, Tensor], h: Hyperparameters
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Goes to the best point known, and has the host look for the next."""
        start, names = self._start(w, shared), ("points", "losses", "count", "next")
        old = [shared["points"], shared["losses"], shared["count"], self._next(shared)]
        step = ops.convert_to_tensor(h.step, w.dtype)
        like = [*old, old[-1][:1]]
        *new, best = on_host(self._look, like, *old, losses[0], step, shared[SEED])
        target = self._weights(best, start, shared, h)[0]
        # Exact at a rate of 1.
        w = (1 - h.learning_rate) * w + h.learning_rate * target
        return w, {**shared, **dict(zip(names, new, strict=True)), "start": start}

    def _look(
        self,
        points: np.ndarray,
        losses: np.ndarray,
        count: np.ndarray,
        asked: np.ndarray,
        told: np.ndarray,
        step: np.ndarray,
        seed: np.ndarray,
    ) -> tuple[np.ndarray, ...]:
        """What is known now, which points are next, and the best: on the host, in NumPy."""
        dimensions, room = points.shape[1], self.max_observations
        # A loss that is infinite stands in for a generation that is not learned from.
        told = np.where(np.isfinite(told), told, 0.0)
        points = np.concatenate([points[: int(count)], asked]).astype("float64")
        losses = np.concatenate([losses[: int(count)], told]).astype("float64")
        points, losses = _remembered(points, losses, room)
        seen = self.batch * int(step)
        if seen < (self.initial_points or min(10, max(3, 2 * dimensions))):
            best, following = int(losses.argmin()), seen + self.batch
            proposed = design(following, dimensions, int(seed))[seen:]
        else:
            draws = (int(seed), int(step))
            surrogate = Surrogate(points, losses, draws)
            best, proposed = surrogate.best, surrogate.propose(self.batch, draws)
        missing = room - len(points)
        return (
            np.pad(points, ((0, missing), (0, 0))),
            np.pad(losses, (0, missing)),
            np.array(float(len(points))),
            proposed,
            points[best][None],
        )

    def _next(self, shared: dict[str, Tensor]) -> Tensor:
        """The points to be looked at, of which the first batch is the design's."""
        later = shared["next"]
        if self.batch == 1:
            return later
        dimensions = int(later.shape[1])
        (first,) = on_host(
            lambda seed: [design(self.batch, dimensions, int(seed))], [later], shared[SEED]
        )
        return ops.where(shared["count"] > 0, later, first)

    def _start(self, w: Tensor, shared: dict[str, Tensor]) -> Tensor:
        return ops.where(shared["count"] > 0, shared["start"], w)

    def _weights(
        self, points: Tensor, start: Tensor, shared: dict[str, Tensor], h: Hyperparameters
    ) -> Tensor:
        """The weights that points of the box stand for, shape (points, size)."""
        away = 2 * points - 1
        if int(points.shape[1]) < self.size:
            key = 2 * ops.cast(shared[SEED], "int32")
            lots = _mixed(ops.arange(self.size, dtype="int32"), key)
            signs = ops.where(_mixed(lots, key + 1) < 0, -1.0, 1.0)
            # The rank of an entry among all lots, which are distinct: equal shares.
            places = ops.argsort(ops.argsort(lots)) % int(points.shape[1])
            away = ops.take(away, places, axis=1) * ops.cast(signs, away.dtype)
        return start + h.radius * away


def _dimensions(value: Any) -> int:
    try:
        found = positive_int("embedding_dimensions", value)
    except ValueError:
        found = 0
    if not 1 <= found <= 200:
        raise ValueError(
            'embedding_dimensions must be "auto" or a whole number from 1 to 200, received '
            f"{value!r}. About 10 to 20 are usual."
        )
    return found


def _remembered(points: np.ndarray, losses: np.ndarray, room: int) -> tuple[np.ndarray, np.ndarray]:
    """Points and losses without the older one of the closest two, until there is room."""
    while len(points) > room:
        squares = np.sum((points[:, None] - points[None]) ** 2, axis=2)
        squares[np.tril_indices(len(points))] = np.inf
        older = int(squares.argmin()) // len(points)
        points, losses = np.delete(points, older, axis=0), np.delete(losses, older)
    return points, losses


def _mixed(numbers: Tensor, key: Tensor) -> Tensor:
    """Whole numbers of 32 bits in an order that seems random; distinct ones stay distinct.

    The last steps of Appleby's MurmurHash3 (2011), of which each can be undone.
    """
    found = ops.bitwise_xor(numbers, (key + 1) * _signed(0x9E3779B9))
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        # Bits that a shift to the right fills with the sign are masked.
        high = ops.bitwise_and(ops.right_shift(found, shift), 2 ** (32 - shift) - 1)
        found = ops.bitwise_xor(found, high) * _signed(factor)
    return found


def _signed(number: int) -> int:
    """The lowest 32 bits as a number with a sign."""
    return (number + 2**31) % 2**32 - 2**31
