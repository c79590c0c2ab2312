"""BFGS: a dense inverse Hessian from gradients, with a line search."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

from keras import ops

from keras_gradopt.arguments import Hyperparameters, positive_int
from keras_gradopt.landscape import Landscape, dot, norm
from keras_gradopt.linalg import times
from keras_gradopt.linesearch import rounding, strong_wolfe
from keras_gradopt.ranges import NON_NEGATIVE, Range
from keras_gradopt.slot import Slot
from keras_gradopt.vector_rule import CONVERGED, MOVED, NO_STEP, NOT_FINITE, OUTCOME, StepsAsVector

Tensor = Any


class BFGS(StepsAsVector):
    r"""Learns the inverse Hessian from gradients, and searches along its direction.

    Use it on small smooth problems with the whole data as one minibatch, where the dense matrix
    fits: some thousand parameters; the model must be bound: `keras_gradopt.bind(model)`. With
    gradient $g_k$, steps $s_k = w_{k+1} - w_k$, $y_k = g_{k+1} - g_k$ and
    $\rho_k = 1 / \langle y_k, s_k \rangle$:

    $$w_{k+1} = w_k - t_k H_k g_k$$
    $$H_{k+1} = (I - \rho_k s_k y_k^T) H_k (I - \rho_k y_k s_k^T) + \rho_k s_k s_k^T$$

    with $t_k$ from a search for the strong Wolfe conditions, and $H$ a multiple of the identity at
    first. Each step of `fit` makes several iterations on its minibatch.

    Args:
        learning_rate: First trial of each search, in units of the direction, at least 0: 1 lets
            the curvature decide.
        iterations_per_step: Iterations on one minibatch, at least 1. Each costs one gradient or
            little more; the step itself one and a loss value.
        search_evaluations: Gradients that one search may take, at least 1.
        tolerance: Largest entry of the gradient, at least 0, at which the step stops.
        max_parameters: Refuses models with more parameters, whose matrix would be too large.
        **kwargs: Common arguments, see `keras_gradopt.Optimizer`; clipping, weight decay and rates
            of groups are refused.

    Raises:
        ValueError: The model has more than `max_parameters` parameters.

    Example:
        >>> model = keras_gradopt.bind(model)
        >>> model.compile(optimizer=BFGS(), loss="mse")
        >>> history = model.fit(x, y, batch_size=64, epochs=5, verbose=0)
        >>> history.history["loss"][-1] < 0.1 * history.history["loss"][0]
        True

    References:
        Nocedal, Wright. Numerical Optimization. Springer 2006, algorithm 6.1 with (6.20) as the
        first matrix. Pairs of little curvature are left out, as Li and Fukushima (2001) do. Where
        no step is found, the search starts again from the steepest descent, once.
    """

    gradient_evaluations_per_step = 12.0
    ranges: ClassVar[dict[str, Range]] = {"tolerance": NON_NEGATIVE.fixed()}

    def __init__(
        self,
        learning_rate: Any = 1.0,
        iterations_per_step: int = 10,
        search_evaluations: int = 20,
        tolerance: float = 1e-7,
        max_parameters: int = 5000,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.declare(
            iterations_per_step=positive_int("iterations_per_step", iterations_per_step),
            search_evaluations=positive_int("search_evaluations", search_evaluations),
            tolerance=tolerance,
            max_parameters=positive_int("max_parameters", max_parameters),
        )

    def vector_slots(self, size: int) -> Sequence[Slot]:
        """The inverse Hessian, and whether it was learnt yet."""
        return (Slot("inverse_hessian", shape=(size, size)), Slot("pairs", shape=()))

    def _create_state(self, variables: list[Any]) -> None:
        self._check_size(variables)
        super()._create_state(variables)

    def _check_size(self, variables: list[Any]) -> None:
        # That one is made of this one.
        from keras_gradopt.closure.lbfgs import LBFGS

        check_size(self, variables, "keeps a dense matrix", LBFGS)

    def dearest_step(self) -> float:
        """Every search to its last trial, after the step's own gradient and loss."""
        return 4 / 3 + self.iterations_per_step * self.search_evaluations

    def direction(self, landscape: Landscape, g: Tensor, memory: dict[str, Tensor]) -> Tensor:
        """$-Hg$; the steepest descent before anything was learnt."""
        del landscape
        learnt = memory["pairs"] > 0
        return -ops.where(learnt, times(memory["inverse_hessian"], g), g)

    def remembered(self, memory: dict[str, Tensor], s: Tensor, y: Tensor) -> dict[str, Tensor]:
        """The memory with one more pair."""
        h, product = memory["inverse_hessian"], dot(s, y)
        identity = ops.eye(self.size, dtype=s.dtype)
        h = ops.where(memory["pairs"] > 0, h, product / dot(y, y) * identity)  # (6.20)
        left = times(h, y)
        scale = (1.0 + dot(y, left) / product) / product
        cross = ops.outer(left, s)
        h = h + scale * ops.outer(s, s) - (cross + ops.transpose(cross)) / product  # (6.17)
        return {"inverse_hessian": h, "pairs": memory["pairs"] + 1}

    def forgotten(self, memory: dict[str, Tensor]) -> dict[str, Tensor]:
        """The memory without any pair."""
        return {**memory, "pairs": ops.zeros_like(memory["pairs"])}

    def descend(
        self,
        landscape: Landscape,
        w: Tensor,
        g: Tensor,
        shared: dict[str, Tensor],
        h: Hyperparameters,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Some iterations on one minibatch."""
        names = [slot.name for slot in self.vector_slots(self.size)]

        def body(k: Any, outcome: Any, w: Any, f: Any, g: Any, *rest: Any) -> tuple:
            del outcome
            memory = dict(zip(names, rest, strict=True))
            d = self.direction(landscape, g, memory)
            downhill = (dot(d, g) < 0) & ops.isfinite(dot(d, d))
            d = ops.where(downhill, d, -g)
            length = ops.where(memory["pairs"] > 0, 1.0, ops.minimum(1.0, 1.0 / norm(g)))
            first = ops.cast(h.learning_rate * length, w.dtype)
            found = strong_wolfe(landscape, w, f, g, d, first, self.search_evaluations)
            # Without a decrease beyond rounding nothing moves; it is the end if none was promised.
            success = found.success & (f - found.value > rounding(f))
            exhausted = ~success & (ops.abs(first * dot(d, g)) <= 1e3 * rounding(f))
            s, y = found.w - w, found.gradient - g
            useful = success & (dot(s, y) > 1e-10 * norm(s) * norm(y))
            kept = _where(useful, self.remembered(memory, s, y), memory)
            # Once more from the steepest descent, before it gives up.
            again = ~success & ~exhausted & (memory["pairs"] > 0)
            kept = _where(again, self.forgotten(memory), kept)
            small = success & (ops.max(ops.abs(found.gradient)) <= self.tolerance)
            stuck = ~success & ~again & ~exhausted
            outcome = ops.where(stuck, NO_STEP, ops.where(small | exhausted, CONVERGED, MOVED))
            outcome = ops.cast(outcome, "int32")
            new = (found.w, found.value, found.gradient)
            old = (w, f, g)
            moved = tuple(ops.where(success, a, b) for a, b in zip(new, old, strict=True))
            return (k + 1, outcome, *moved, *(kept[name] for name in names))

        def going(k: Any, outcome: Any, *rest: Any) -> Tensor:
            del rest
            return ops.logical_and(k < self.iterations_per_step, ops.equal(outcome, MOVED))

        f = landscape.value(w)
        small = ops.max(ops.abs(g)) <= self.tolerance
        finite = ops.isfinite(f) & ops.all(ops.isfinite(g))
        outcome = ops.where(finite, ops.where(small, CONVERGED, MOVED), NOT_FINITE)
        start = (ops.convert_to_tensor(0, "int32"), ops.cast(outcome, "int32"), w, f, g)
        state = landscape.loop(going, body, (*start, *(shared[name] for name in names)))
        _, outcome, end = state[:3]
        # A step that moved before it found no more has moved.
        outcome = ops.where(ops.equal(outcome, NO_STEP) & ops.any(end != w), MOVED, outcome)
        memory = dict(zip(names, state[5:], strict=True))
        return end, {**shared, **memory, OUTCOME: ops.cast(outcome, w.dtype)}


def check_size(rule: Any, variables: list[Any], why: str, instead: type) -> None:
    """Raises `ValueError` for a model with more than the rule's `max_parameters`.

    Args:
        rule: The optimizer.
        variables: What it is to train.
        why: What it does with a matrix, for the message.
        instead: The class to take.
    """
    size = sum(math.prod(v.shape) for v in rule.moving(variables))
    if size > rule.max_parameters:
        raise ValueError(
            f"{type(rule).__name__} {why}, and the model has {size} trainable parameters "
            f"({size * size * 4 / 1e9:.2g} GB); max_parameters is {rule.max_parameters}. Take "
            f"keras_gradopt.{instead.__name__}, or raise max_parameters."
        )


def _where(condition: Tensor, yes: dict[str, Tensor], no: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: ops.where(condition, yes[name], no[name]) for name in no}
