"""Rules that see values of the loss only, at points that they choose themselves.

A rule here subclasses `GradientFree` and defines `sample` and `learn`: which points it wants to
know about, and what it makes of their losses. A bound model evaluates them on its minibatch, all
in one compiled call where the backend can; no gradient is asked for, so a loss may have none.
Without a model `ask`, `tell` and `minimize` do the same for any function of a vector.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from keras import ops

from keras_gradopt.arguments import Hyperparameters, positive_int
from keras_gradopt.landscape import Landscape
from keras_gradopt.minimization import Minimization
from keras_gradopt.slot import Slot
from keras_gradopt.vector_rule import CONVERGED, MOVED, NOT_FINITE, OUTCOME, REASONS, StepsAsVector

Tensor = Any
# Entries of the points that are made and evaluated at a time: 64 MB of float32.
_ENTRIES_AT_A_TIME = 2**24
# The slot that holds the seed, so that another one needs no compiling.
SEED = "seed"


class GradientFree(StepsAsVector):
    """Base of rules that never ask for a gradient.

    A generation's points come in chunks of one size, so that a large population of a large model
    need not exist at once, and so that the number of chunks may change from step to step. Points
    follow from the state and the seed: who wants them again makes them again.

    Args:
        learning_rate: Factor of the step, at least 0.
        seed: Of all draws, a whole number at least 0, below 2**24.
        **kwargs: Common arguments, see `keras_gradopt.Optimizer`; clipping, weight decay and rates
            of groups are refused.

    Raises:
        ValueError: An argument is refused, as `StepsAsVector` says.
    """

    needs = "population"
    draws = True
    # How often each point is evaluated in one step; the second time tells noise from signal.
    repeats: int = 1
    _free: Minimization | None = None
    reasons: ClassVar[dict[int, str]] = {
        **REASONS,
        CONVERGED: "the population has shrunk to a point, or its losses no longer differ",
        NOT_FINITE: (
            "no point of the population has a finite loss. Start from weights with a finite loss, "
            "or search closer to them"
        ),
    }

    def __init__(self, learning_rate: Any, seed: int, **kwargs: Any) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.declare(seed=_seed(seed))

    # ------------------------------------------------------------------ what a rule declares

    def dearest_step(self) -> float:
        """A third for each point of the largest generation, and for the reported loss."""
        return (1 + self.most_chunks(self.size) * self.chunk_size(self.size)) / 3

    def chunk_size(self, size: int) -> int:
        """Points of a chunk, for vectors of `size` entries."""
        raise NotImplementedError(f"{type(self).__name__} must define chunk_size.")

    def most_chunks(self, size: int) -> int:
        """Chunks of the largest generation."""
        del size
        return 1

    def chunks(self, shared: dict[str, Tensor]) -> Any:
        """Chunks of this generation: a number, or a whole float tensor if it changes."""
        del shared
        return self.most_chunks(self.size)

    def sample(
        self, w: Tensor, shared: dict[str, Tensor], h: Hyperparameters, chunk: Any
    ) -> Tensor:
        """Points whose losses the rule wants to know.

        Args:
            w: The weights, shape (size,).
            shared: The slots, by name.
            h: Hyper-parameters of this step.
            chunk: Which of the chunks: a number or an integer tensor.

        Returns:
            Shape (chunk size, size).
        """
        raise NotImplementedError(f"{type(self).__name__} must define sample.")

    def learn(
        self, w: Tensor, losses: Tensor, shared: dict[str, Tensor], h: Hyperparameters
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """One step from the losses of all points.

        Args:
            w: The weights, shape (size,).
            losses: Shape (repeats, most chunks x chunk size): +inf where the loss is not finite,
                and for points of chunks that this generation does not have.
            shared: The slots, by name.
            h: Hyper-parameters.

        Returns:
            New weights and slots. The slot `outcome` may be set to `CONVERGED`.
        """
        raise NotImplementedError(f"{type(self).__name__} must define learn.")

    # ------------------------------------------------------------------ the step of a model

    def descend(
        self,
        landscape: Landscape,
        w: Tensor,
        g: Tensor,
        shared: dict[str, Tensor],
        h: Hyperparameters,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Evaluates a generation, and learns from it."""
        del g
        return self.learned(w, self._evaluated(landscape, w, shared, h), shared, h)

    def _evaluated(
        self, landscape: Landscape, w: Tensor, shared: dict[str, Tensor], h: Hyperparameters
    ) -> Tensor:
        def of_chunk(chunk: Any) -> Tensor:
            points = self.sample(w, shared, h, chunk)
            return landscape.halves(points) if self.repeats > 1 else landscape.values(points)[None]

        count, most = self.chunks(shared), self.most_chunks(self.size)
        if most == 1:
            return of_chunk(0)
        size = self.chunk_size(self.size)
        columns = ops.arange(size * most)

        def body(chunk: Tensor, losses: Tensor) -> tuple:
            new = ops.tile(of_chunk(chunk), (1, most))
            return chunk + 1, ops.where(ops.equal(columns // size, chunk), new, losses)

        nothing = ops.full((self.repeats, size * most), float("inf"), dtype=w.dtype)
        start = (ops.convert_to_tensor(0, "int32"), nothing)
        last = ops.cast(count, "int32")
        return landscape.loop(lambda chunk, _: chunk < last, body, start)[1]

    def learned(
        self, w: Tensor, losses: Tensor, shared: dict[str, Tensor], h: Hyperparameters
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """`learn`, where any loss is finite: what is not is the worst of all, and goes no further.

        Args:
            w: The weights.
            losses: As `learn` takes them, but for values that are not finite.
            shared: The slots.
            h: Hyper-parameters.
        """
        finite = ops.isfinite(losses)
        losses = ops.where(finite, losses, float("inf"))
        outcome = shared[OUTCOME]
        moved, found = self.learn(
            w, losses, {**shared, OUTCOME: ops.full_like(outcome, float(MOVED))}, h
        )
        some = ops.any(finite)
        lost = {**shared, OUTCOME: ops.full_like(outcome, float(NOT_FINITE))}
        kept = {name: ops.where(some, value, lost[name]) for name, value in found.items()}
        return ops.where(some, moved, w), kept

    def even_chunk(self, population: int, size: int, multiple: int = 1) -> int:
        """The size of equal chunks of a population that fit into memory.

        Args:
            population: Points in all.
            size: Entries of one.
            multiple: What the chunk's size is to be divisible by.
        """
        whole = population // multiple
        fits = max(1, _ENTRIES_AT_A_TIME // max(1, size * multiple))
        return multiple * max(d for d in range(1, whole + 1) if whole % d == 0 and d <= fits)

    def shared_slots(self) -> Sequence[Slot]:
        """The seed, and what every rule over a vector keeps."""
        return (Slot(SEED, shape=(), initial=float(self.seed)), *super().shared_slots())

    @property
    def shared_variables(self) -> dict[str, Any]:
        """The Keras variables of the slots, by name."""
        return self._shared

    # ------------------------------------------------------------------ without a model

    def start(self, point: Any, seed: int | None = None) -> None:
        """Begins, or begins anew, to minimise a function without a model: see `ask` and `tell`.

        Args:
            point: Where to start: numbers of any shape, taken as one vector.
            seed: Of the draws; None is the optimizer's own.

        Raises:
            ValueError: The optimizer trains a model already, or the point is not finite.
        """
        if self.built and self._free is None:
            raise ValueError(
                f"This {type(self).__name__} trains a model already. Make a new one to minimise a "
                "function."
            )
        if self._free is None:
            # Past Keras, which would count the vector among the optimizer's variables.
            object.__setattr__(self, "_free", Minimization(self, point))
        else:
            self._free.restart(point)
        if seed is not None:
            self._shared[SEED].assign(_seed(seed))

    def ask(self) -> np.ndarray:
        """The points whose losses are wanted next, shape (points, size).

        The same again until `tell` is called.

        Raises:
            RuntimeError: `start` was not called.
        """
        return self._minimization().ask()

    def tell(self, losses: Any, again: Any = None) -> None:
        """The losses of the points that `ask` gave; the next `ask` gives others.

        Args:
            losses: Shape (points,). A loss that is not finite counts as the worst.
            again: A second evaluation of each point, for a rule that handles noise.

        Raises:
            ValueError: The number of losses is not that of the points.
            RuntimeError: `start` was not called.
        """
        self._minimization().tell(losses, again)

    def minimize(
        self,
        function: Callable[[np.ndarray], Any],
        point: Any,
        max_evaluations: int,
        target: float | None = None,
        seed: int | None = None,
        callback: Callable[[Any], Any] | None = None,
    ) -> Any:
        """Minimises a function of a vector, whose values may be noisy.

        Args:
            function: From a point, shape (size,), to its loss.
            point: Where to start.
            max_evaluations: After how many evaluations to stop, at least 1. The last generation is
                finished.
            target: Stops as soon as a loss is this small; None never does.
            seed: Of the draws; None is the optimizer's own.
            callback: Called after each generation with what `result` gives.

        Returns:
            What `result` gives at the end.
        """
        self.start(point, seed)
        return self._minimization().minimize(function, max_evaluations, target, callback)

    def result(self) -> Any:
        """What is known so far, also after an interruption.

        Returns:
            A `scipy.optimize.OptimizeResult`: `x` and `fun` are the best point seen and its loss,
            `mean` is where the weights of a model would be, `nfev` and `nit` count evaluations and
            generations, `success` and `message` tell how it ended.

        Raises:
            RuntimeError: `start` was not called.
        """
        return self._minimization().result()

    def _minimization(self) -> Minimization:
        if self._free is None:
            raise RuntimeError(f"Call {type(self).__name__}.start(point) first.")
        return self._free


def _seed(seed: int) -> int:
    """Checks a seed, which a slot of float32 holds."""
    seed = positive_int("seed", seed, least=0)
    if seed >= 2**24:
        raise ValueError(f"seed must be below {2**24}, received {seed}.")
    return seed
