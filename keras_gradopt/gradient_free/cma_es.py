"""CMAES: a normal distribution that learns where good points lie."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from keras import ops

from keras_gradopt import recombination
from keras_gradopt.arguments import Hyperparameters, positive_int
from keras_gradopt.gradient_free import SEED, GradientFree
from keras_gradopt.landscape import norm
from keras_gradopt.linalg import times
from keras_gradopt.linesearch import rounding
from keras_gradopt.ranges import NON_NEGATIVE, POSITIVE, Range
from keras_gradopt.ranking import order, rank_change
from keras_gradopt.recombination import Recombination
from keras_gradopt.slot import Slot
from keras_gradopt.tensors import either
from keras_gradopt.vector_rule import CONVERGED, OUTCOME

Tensor = Any
Variable = Any
State = dict[str, Tensor]
# Above this many parameters "auto" takes a diagonal covariance matrix.
_FULL_UP_TO = 1000
# Tells the draw of a new start from those of chunks.
_RESTART_DRAW = 2**20
# Factor of the evaluations of a generation, up in noise and down without.
_MORE_EVALUATIONS = 1.5
# What a loss that is not finite counts where losses are added up, or kept.
_HUGE = 1e30


class CMAES(GradientFree):
    r"""Searches with a normal distribution whose covariance matrix follows the best points.

    Use it on rugged, ill-conditioned or non-differentiable losses of up to some thousand
    parameters, with all data, or a large part of it, as one minibatch; the model must be bound:
    `keras_gradopt.bind(model)`. A generation is $\lambda$ points around the weights $m$, ranked by
    loss, with weights $w_i$ that are positive for the better half and negative for the worse one:

    $$x_i = m + \sigma y_i, \quad y_i \sim N(0, C), \quad
      \langle y \rangle = \sum_{w_i > 0} w_i y_{i:\lambda}, \quad
      m \leftarrow m + \eta \sigma \langle y \rangle$$
    $$p_\sigma \leftarrow (1 - c_\sigma) p_\sigma + \sqrt{c_\sigma (2 - c_\sigma) \mu_{eff}}\,
      C^{-1/2} \langle y \rangle, \quad \sigma \leftarrow \sigma \exp\left(\frac{c_\sigma}{d_\sigma}
      \left(\frac{\|p_\sigma\|}{E\|N(0, I)\|} - 1\right)\right)$$
    $$p_c \leftarrow (1 - c_c) p_c + h_\sigma \sqrt{c_c (2 - c_c) \mu_{eff}}\, \langle y \rangle$$
    $$C \leftarrow C + c_1 (p_c p_c^T - C) + c_\mu \sum_i w_i (y_{i:\lambda} y_{i:\lambda}^T - C)$$

    One step of `fit` is one generation. Only ranks count, so that any increasing function of the
    loss is searched alike.

    Args:
        learning_rate: $\eta$, at least 0: the factor of the mean's step, 1 as in the paper; less
            against noise.
        sigma: First step size $\sigma$ above 0, in units of the weights: about a third of the
            distance to where the minimum may lie.
        population_size: $\lambda$, at least 2; None is $4 + \lfloor 3 \ln n \rfloor$ for $n$
            parameters. More searches wider, and averages over more noise.
        covariance: `"full"`; `"separable"`, a diagonal matrix, for many parameters; `"auto"` is
            full up to 1000 parameters.
        restarts: How often a search that has converged begins again, at random weights around the
            first ones, with twice the population; at least 0. The model keeps the best weights of
            all searches.
        handle_noise: Whether each point is evaluated on either half of the minibatch. Where the
            ranks of the two disagree, generations take several minibatches (steps), at most
            `most_evaluations`, then the step size grows.
        most_evaluations: Minibatches of one generation at most, at least 1, where noise is handled.
        tolerance: A search has converged where losses differ by no more, over a generation and over
            the last ones; at least 0.
        max_parameters: Refuses a full covariance matrix of more parameters.
        seed: Of the draws, at least 0.
        **kwargs: Common arguments, see `keras_gradopt.Optimizer`; clipping, weight decay and rates
            of groups are refused.

    Raises:
        ValueError: The covariance matrix would be too large.

    Example:
        >>> optimizer = CMAES(sigma=0.5)
        >>> found = optimizer.minimize(lambda w: float(sum((w - 1) ** 2)), [0.0, 3.0], 600)
        >>> bool(found.fun < 1e-6)
        True

    References:
        Hansen. The CMA Evolution Strategy: A Comparing Review. 2006, and The CMA Evolution
        Strategy: A Tutorial. 2016, figure 6, with active covariance update; Ros, Hansen. PPSN 2008
        (separable); Auger, Hansen. A Restart CMA Evolution Strategy with Increasing Population
        Size. CEC 2005 (restarts; there at uniform points of a box, here at normal ones of three
        first step sizes around the first weights); Hansen, Niederberger, Guzzella, Koumoutsakos.
        IEEE TEC 2009 (noise; all points are evaluated twice, for halves of a minibatch cost no more
        than the whole). The matrix is decomposed once in $1 / (10 n (c_1 + c_\mu))$ generations.
    """

    gradient_evaluations_per_step = 4.0
    ranges: ClassVar[dict[str, Range]] = {
        "sigma": POSITIVE.fixed(),
        "tolerance": NON_NEGATIVE.fixed(),
    }

    def __init__(
        self,
        learning_rate: Any = 1.0,
        sigma: float = 0.1,
        population_size: int | None = None,
        covariance: Literal["auto", "full", "separable"] = "auto",
        restarts: int = 0,
        handle_noise: bool = False,
        most_evaluations: int = 10,
        tolerance: float = 1e-12,
        max_parameters: int = 5000,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, seed=seed, **kwargs)
        if covariance not in ("auto", "full", "separable"):
            raise ValueError(
                f"covariance must be 'auto', 'full' or 'separable', received {covariance!r}."
            )
        if population_size is not None:
            population_size = positive_int("population_size", population_size, least=2)
        self.declare(
            sigma=sigma,
            population_size=population_size,
            covariance=covariance,
            restarts=positive_int("restarts", restarts, least=0),
            handle_noise=bool(handle_noise),
            most_evaluations=positive_int("most_evaluations", most_evaluations),
            tolerance=tolerance,
            max_parameters=positive_int("max_parameters", max_parameters),
        )
        self.repeats = 2 if self.handle_noise else 1

    # ------------------------------------------------------------------ sizes

    def _create_state(self, variables: list[Variable]) -> None:
        size = sum(math.prod(v.shape) for v in self.moving(variables))
        if self.covariance == "full" and size > self.max_parameters:
            raise ValueError(
                f"The model has {size} parameters, and a full covariance matrix of more than "
                f"max_parameters={self.max_parameters} is refused. Take covariance='separable', "
                "whose memory grows with the parameters only, an evolution strategy, or freeze "
                "layers."
            )
        super()._create_state(variables)

    def _is_full(self, size: int) -> bool:
        return self.covariance == "full" or (self.covariance == "auto" and size <= _FULL_UP_TO)

    def _first_population(self, size: int) -> int:
        return self.population_size or 4 + math.floor(3 * math.log(size))

    def chunk_size(self, size: int) -> int:
        """The first population, or what of it fits into memory."""
        return self.even_chunk(self._first_population(size), size)

    def most_chunks(self, size: int) -> int:
        """Those of the last restart's population."""
        return self._first_population(size) // self.chunk_size(size) * 2**self.restarts

    def chunks(self, shared: State) -> Any:
        """Those of this restart's population."""
        first = self.most_chunks(self.size) // 2**self.restarts
        return first * 2.0 ** shared["restart"] if self.restarts else first

    def _window(self, size: int) -> int:
        """Generations over which the best losses are compared, for the first population."""
        return 10 + math.ceil(30 * size / self._first_population(size))

    def vector_slots(self, size: int) -> Sequence[Slot]:
        """The distribution, its paths, what tells convergence, and what restarts and noise need."""
        shape = (size, size) if self._is_full(size) else (size,)
        found = [
            Slot("covariance", shape, (lambda _: ops.eye(size)) if self._is_full(size) else 1.0),
            Slot("path_sigma", (size,)),
            Slot("path_c", (size,)),
            Slot("sigma", (), self.sigma),
            Slot("generation", ()),
            Slot("age", ()),
            Slot("recent", (self._window(size),)),
        ]
        if self._is_full(size):
            found += [Slot("axes", shape, lambda _: ops.eye(size)), Slot("scales", (size,), 1.0)]
        if self.restarts:
            found += [Slot("restart", ()), Slot("mean", (size,)), Slot("first", (size,))]
            found += [Slot("elite", (size,)), Slot("elite_loss", ())]
        if self.handle_noise:
            most = self.chunk_size(size) * self.most_chunks(size)
            found += [Slot("sums", (2, most)), Slot("evaluated", ()), Slot("wanted", (), 1.0)]
            found += [Slot("noise", ())]
        return found

    # ------------------------------------------------------------------ a generation

    def sample(self, w: Tensor, shared: State, h: Hyperparameters, chunk: Any) -> Tensor:
        """Points of the distribution."""
        return self._mean(w, shared) + shared["sigma"] * self._ys(
            shared, self._zs(shared, h, chunk)
        )

    def learn(
        self, w: Tensor, losses: Tensor, shared: State, h: Hyperparameters
    ) -> tuple[Tensor, State]:
        """The distribution after a generation, or its losses so far where noise is handled."""
        if not self.handle_noise:
            return self._generation(w, losses[0], shared, h)
        shared = {
            **shared,
            "sums": shared["sums"] + ops.where(ops.isfinite(losses), losses, _HUGE),
            "evaluated": shared["evaluated"] + 1.0,
        }

        def step() -> tuple[Tensor, State]:
            means = shared["sums"] / shared["evaluated"]
            moved, found = self._generation(w, ops.mean(means, axis=0), shared, h)
            return moved, self._after_noise(means, found)

        def wait() -> tuple[Tensor, State]:
            return ops.copy(w), {name: ops.copy(value) for name, value in shared.items()}

        return either(shared["evaluated"] >= ops.floor(shared["wanted"]), step, wait)

    def _after_noise(self, losses: Tensor, shared: State) -> State:
        """How often to evaluate the next generation, and whether to widen it, by the noise seen."""
        noise = rank_change(losses, self._population(shared))
        noisy = noise > 0
        most = float(self.most_evaluations)
        at_most = shared["wanted"] >= most
        wanted = ops.where(
            noisy,
            ops.minimum(shared["wanted"] * _MORE_EVALUATIONS, most),
            ops.maximum(shared["wanted"] / _MORE_EVALUATIONS, 1.0),
        )
        wider = ops.where(noisy & at_most, 1.0 + 2.0 / (self.size + 10.0), 1.0)
        return {
            **shared,
            "sums": ops.zeros_like(shared["sums"]),
            "evaluated": ops.zeros_like(shared["evaluated"]),
            "wanted": wanted,
            "noise": noise,
            "sigma": shared["sigma"] * ops.cast(wider, shared["sigma"].dtype),
        }

    def _generation(
        self, w: Tensor, losses: Tensor, shared: State, h: Hyperparameters
    ) -> tuple[Tensor, State]:
        n, population = self.size, self._population(shared)
        is_full = self._is_full(n)
        constants = recombination.full if is_full else recombination.separable
        r = constants(n, population, losses.shape[0])
        weights = ops.take(r.weights, order(losses))
        z_mean, y_mean, spread = self._sums(weights, shared, h)
        m = self._mean(w, shared)
        if self.restarts:
            begins = ops.equal(shared["generation"], 0)
            shared = {**shared, "first": ops.where(begins, m, shared["first"])}
        m = m + h.learning_rate * shared["sigma"] * y_mean
        # (43): C^(-1/2) y is B z, for y = B D z.
        whitened = times(shared["axes"], z_mean) if is_full else z_mean
        path_sigma = (1.0 - r.c_sigma) * shared["path_sigma"] + whitened * ops.sqrt(
            r.c_sigma * (2.0 - r.c_sigma) * r.mu_eff
        )
        chi = math.sqrt(n) * (1.0 - 1.0 / (4.0 * n) + 1.0 / (21.0 * n * n))
        length, age = norm(path_sigma), shared["age"] + 1.0
        sigma = shared["sigma"] * ops.exp(r.c_sigma / r.d_sigma * (length / chi - 1.0))  # (44)
        settled = length / ops.sqrt(1.0 - (1.0 - r.c_sigma) ** (2.0 * (age + 1.0)))
        hsig = ops.cast(settled < (1.4 + 2.0 / (n + 1.0)) * chi, w.dtype)
        path_c = (1.0 - r.c_c) * shared["path_c"] + y_mean * hsig * ops.sqrt(
            r.c_c * (2.0 - r.c_c) * r.mu_eff
        )  # (45)
        rank_one = ops.outer(path_c, path_c) if is_full else path_c * path_c
        lost = (1.0 - hsig) * r.c_c * (2.0 - r.c_c)
        kept = 1.0 + r.c_1 * lost - r.c_1 - r.c_mu * ops.sum(r.weights)
        covariance = kept * shared["covariance"] + r.c_1 * rank_one + r.c_mu * spread  # (47)
        best = ops.min(losses)
        recent = _put(shared["recent"], shared["age"], best)
        shared = {
            **shared,
            "covariance": covariance,
            "path_sigma": path_sigma,
            "path_c": path_c,
            "sigma": ops.minimum(sigma, 1e32),
            "generation": shared["generation"] + 1.0,
            "age": age,
            "recent": recent,
        }
        if is_full:
            shared = self._decomposed(shared, r)
        converged = self._has_converged(m, losses, shared, population)
        if self.restarts:
            return self._restarted(m, losses, converged, shared, h)
        outcome = ops.where(converged, float(CONVERGED), shared[OUTCOME])
        return m, {**shared, OUTCOME: ops.cast(outcome, w.dtype)}

    def _population(self, shared: State) -> Tensor:
        first = float(self._first_population(self.size))
        grown = 2.0 ** shared["restart"] if self.restarts else 1.0
        return first * grown * ops.ones_like(shared["sigma"])

    def _mean(self, w: Tensor, shared: State) -> Tensor:
        if not self.restarts:
            return w
        return ops.where(ops.equal(shared["generation"], 0), w, shared["mean"])

    def _zs(self, shared: State, h: Hyperparameters, chunk: Any) -> Tensor:
        h = h.replace(step=shared["generation"] + 1.0)
        draws = h.normal((self.chunk_size(self.size), self.size), shared[SEED], chunk)
        return ops.cast(draws, shared["sigma"].dtype)

    def _ys(self, shared: State, zs: Tensor) -> Tensor:
        if not self._is_full(self.size):
            return zs * ops.sqrt(shared["covariance"])
        return ops.matmul(zs * shared["scales"], ops.transpose(shared["axes"]))

    def _sums(
        self, weights: Tensor, shared: State, h: Hyperparameters
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Over the points: the means of z and y by the positive weights, and of y y^T by all."""
        size, is_full = self.chunk_size(self.size), self._is_full(self.size)
        good = ops.maximum(weights, 0.0)

        def added(chunk: Any, z_mean: Tensor, y_mean: Tensor, spread: Tensor) -> tuple:
            own = chunk * size + ops.arange(size, dtype="int32")
            zs = self._zs(shared, h, chunk)
            ys = self._ys(shared, zs)
            share, signed = ops.take(good, own)[:, None], ops.take(weights, own)[:, None]
            # (46): a bad direction counts as if it had the length that is expected.
            lengths = ops.sum(zs * zs, axis=1, keepdims=True) + 1e-8
            signed = ops.where(signed >= 0, signed, signed * self.size / lengths)
            outer = (
                ops.matmul(ops.transpose(ys), signed * ys)
                if is_full
                else ops.sum(signed * ys * ys, axis=0)
            )
            return (
                z_mean + ops.sum(share * zs, axis=0),
                y_mean + ops.sum(share * ys, axis=0),
                spread + outer,
            )

        zero = ops.zeros_like(shared["path_c"])
        start = (zero, zero, ops.zeros_like(shared["covariance"]))
        if self.most_chunks(self.size) == 1:
            return added(0, *start)
        last = ops.cast(self.chunks(shared), "int32")
        loop = ops.while_loop(
            lambda chunk, *_: chunk < last,
            lambda chunk, *sums: (chunk + 1, *added(chunk, *sums)),
            (ops.convert_to_tensor(0, "int32"), *start),
        )
        return loop[1], loop[2], loop[3]

    def _decomposed(self, shared: State, r: Recombination) -> State:
        """With the covariance matrix' axes and scales anew, where it has changed enough."""
        # No more than this share of a generation's learning is waited for.
        apart = ops.maximum(ops.floor(1.0 / (10.0 * self.size * (r.c_1 + r.c_mu))), 1.0)

        def anew() -> tuple[Tensor, Tensor, Tensor]:
            covariance = shared["covariance"]
            covariance = 0.5 * (covariance + ops.transpose(covariance))
            squares, axes = ops.linalg.eigh(covariance)
            scales = ops.sqrt(ops.where(squares < 0, 1e-8, squares))
            rebuilt = ops.matmul(axes * (scales * scales), ops.transpose(axes))
            return rebuilt, axes, scales

        def wait() -> tuple[Tensor, Tensor, Tensor]:
            names = ("covariance", "axes", "scales")
            return tuple(ops.copy(shared[name]) for name in names)

        due = ops.equal(ops.mod(shared["age"], apart), 0.0)
        covariance, axes, scales = either(due, anew, wait)
        return {**shared, "covariance": covariance, "axes": axes, "scales": scales}

    # ------------------------------------------------------------------ convergence and restarts

    def _has_converged(
        self, m: Tensor, losses: Tensor, shared: State, population: Tensor
    ) -> Tensor:
        """Whether losses or weights no longer differ, or the matrix is too far from round."""
        finite = ops.isfinite(losses) & (losses < _HUGE)
        best = ops.min(losses)
        widest = ops.max(ops.where(finite, losses, best)) - best
        places = ops.cast(ops.arange(shared["recent"].shape[0]), m.dtype)
        window = 10.0 + ops.ceil(30.0 * self.size / population)
        # Where in the ring each of the last generations was put, 0 generations ago being this one.
        since = ops.mod(shared["age"] - 1.0 - places, float(places.shape[0]))
        inside = since < ops.minimum(window, float(places.shape[0]))
        recent = ops.where(inside, shared["recent"], best)
        moved = ops.max(recent) - ops.min(recent)
        tolerance = ops.maximum(ops.cast(self.tolerance, m.dtype), 10.0 * rounding(best))
        flat = (widest <= tolerance) & (moved <= tolerance) & (shared["age"] >= window)
        spread = shared["covariance"]
        spread = ops.sqrt(ops.diagonal(spread) if len(spread.shape) == 2 else spread)
        reach = shared["sigma"] * ops.maximum(spread, ops.abs(shared["path_c"]))
        small = ops.max(reach) < 1e-12 * self.sigma
        # A step of this size changes no digit of the weights.
        lost = ops.all(ops.equal(m + 0.2 * shared["sigma"] * spread, m))
        converged = flat | small | lost
        if self._is_full(self.size):
            scales = shared["scales"]
            converged = converged | (ops.max(scales) > 1e7 * ops.min(scales))
        return converged

    def _restarted(
        self, m: Tensor, losses: Tensor, converged: Tensor, shared: State, h: Hyperparameters
    ) -> tuple[Tensor, State]:
        """A new search with twice the population where the last has converged, if any is left."""
        # Half of a generation is no better than this; a lucky point says nothing of the mean.
        middle = ops.cast(self._population(shared)[None] / 2.0, "int32")
        search_loss = ops.minimum(ops.take(ops.sort(losses), middle)[0], _HUGE)
        is_first = ops.equal(shared["restart"], 0)
        # In the first search there is nothing better to keep.
        better = is_first | (search_loss <= shared["elite_loss"])
        elite = ops.where(better, m, shared["elite"])
        elite_loss = ops.where(better, search_loss, shared["elite_loss"])
        again = converged & (shared["restart"] < self.restarts)
        draw = h.replace(step=shared["generation"]).normal(
            (self.size,), shared[SEED], _RESTART_DRAW
        )
        start = shared["first"] + 3.0 * self.sigma * ops.cast(draw, m.dtype)
        new = {
            **shared,
            "mean": ops.where(again, start, m),
            "elite": ops.where(converged | is_first, elite, shared["elite"]),
            "elite_loss": ops.where(converged | is_first, elite_loss, shared["elite_loss"]),
            "restart": shared["restart"] + ops.cast(again, m.dtype),
            OUTCOME: ops.cast(
                ops.where(converged & ops.logical_not(again), float(CONVERGED), shared[OUTCOME]),
                m.dtype,
            ),
        }
        fresh = {slot.name: slot for slot in self.vector_slots(self.size)}
        for name in ("covariance", "axes", "scales", "path_sigma", "path_c", "sigma", "age"):
            if name in new:
                first = ops.cast(fresh[name].start(None), m.dtype)
                new[name] = ops.where(again, first, new[name])
        return elite, new


def _put(ring: Tensor, place: Tensor, value: Tensor) -> Tensor:
    """A ring with `value` at `place`, a float count that goes round."""
    places = ops.cast(ops.arange(ring.shape[0]), ring.dtype)
    here = ops.equal(places, ops.mod(place, float(ring.shape[0])))
    return ops.where(here, value, ring)
